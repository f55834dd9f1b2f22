//! Questions about a key, as SQL asks them: `verify_api_key`, `verify_api_key_hash`, and the proof of
//! possession that `revoke_own_api_key` needs.

use crate::core::jsonb::{Value, object};
use crate::core::verdict::Code;
use crate::pg::error::OrRaise;
use crate::pg::keys::rows::Keys;
use crate::pg::memory;
use crate::pg::raw::call::sql_function;
use crate::pg::raw::server;
use crate::pg::raw::types::{Array, Inet, Jsonb, Text};
use crate::pg::usage;
use crate::pg::verify::answer::{Answer, Question, answer};
use crate::pg::verify::prove::{Denial, ProvenKey, prove};

sql_function! {
    /// Verifies a key, and records that.
    fn verify_api_key(
        text: Option<Text>,
        required_scopes: Option<Array<Text>>,
        client_ip: Option<Inet>,
        resource_id: Option<Text>,
    ) -> Jsonb {
        let required_scopes = required_scopes.unwrap_or_default();
        answer(Question { text, required_scopes, client_ip, resource_id }).object()
    }

    /// As `verify_api_key`, in the form of those who send a hash of the key.
    fn verify_api_key_hash(text: Option<Text>) -> Jsonb {
        let Answer { code, key, .. } = answer(Question { text, ..Question::default() });
        let answer = match (code, &key) {
            (Code::Valid, Some(ProvenKey { key_id, row, .. })) => {
                let key_id = *key_id;
                let user_id = row.get(Keys::USER_ID);
                let tier = row.get(Keys::TIER);
                let data = object(&mut [
                    ("user_id", user_id.into()),
                    ("key_id", key_id.into()),
                    ("tier", tier.into()),
                    ("environment", row.get(Keys::ENVIRONMENT).into()),
                ])
                .or_raise();
                object(&mut [
                    ("success", Value::Bool(true)),
                    ("valid", Value::Bool(true)),
                    ("code", code.as_str().into()),
                    ("key_id", key_id.into()),
                    ("api_key_id", key_id.into()),
                    ("user_id", user_id.into()),
                    ("name", row.get(Keys::NAME).into()),
                    ("tier", tier.into()),
                    ("data", Value::Object(&data)),
                ])
            }
            _ => object(&mut [
                ("success", Value::Bool(false)),
                ("valid", Value::Bool(false)),
                ("code", code.as_str().into()),
                ("error", code.message().into()),
                ("message", code.message().into()),
            ]),
        };
        answer.or_raise()
    }

    /// `{code, key_id, by_previous_secret}` of a text.
    fn prove_possession(text: Text) -> Jsonb {
        let now = server::now();
        let proven = match memory::with(|state| prove(state, text, now)) {
            Ok(key) => object(&mut [
                ("code", Code::Valid.as_str().into()),
                ("key_id", key.key_id.into()),
                ("by_previous_secret", Value::Bool(key.by_previous_secret)),
            ]),
            Err(Denial { code, key_id, wrong_secret }) => {
                memory::with(|state| {
                    usage::record_denial(state, code, key_id, wrong_secret, now, None);
                });
                object(&mut [("code", code.as_str().into())])
            }
        };
        proven.or_raise()
    }
}
