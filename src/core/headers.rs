//! The headers of a request, which PostgREST puts into the setting `request.headers`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::forwarded;
use super::refusal::{Kind, Refusal};

#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The headers of a request. PostgREST keeps only the last of several with the same name.
pub struct Headers<'a>(HashMap<Text<'a>, Text<'a>>);

/// The text is not a JSON object of strings. The error reveals nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object of strings")]
pub struct Malformed;

impl<'a> Headers<'a> {
    /// Reads a JSON object of strings. An empty text means no headers.
    ///
    /// # Errors
    /// `Malformed` for any other text.
    pub fn parse(json: &'a str) -> Result<Self, Malformed> {
        if json.is_empty() {
            return Ok(Self(HashMap::new()));
        }
        serde_json::from_str(json).map(Self).map_err(|_| Malformed)
    }

    fn values(&self, name: impl AsRef<str>) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(Text(other), _)| other.eq_ignore_ascii_case(name.as_ref()))
            .map(|(_, Text(value))| value.as_ref())
    }

    /// The values of the headers `names`, which may hold keys. They are trimmed: white space around
    /// a value is not part of it (RFC 9110, section 5.5), but PostgREST leaves trailing white
    /// space.
    pub fn keys(&self, names: &[String]) -> impl Iterator<Item = &str> {
        names.iter().flat_map(|name| self.values(name)).map(|text| text.trim_matches([' ', '\t']))
    }

    /// The value that may be a key, from the headers `names`; `None` if there is none.
    ///
    /// # Errors
    /// `SEVERAL_KEYS` if the headers have different values.
    pub fn key(&self, names: &[String]) -> Result<Option<&str>, Refusal> {
        let mut keys = self.keys(names);
        let first = keys.next();
        if keys.any(|other| Some(other) != first) {
            return Err(Kind::SEVERAL_KEYS.into());
        }
        Ok(first)
    }

    /// The other headers as JSON text, for the statements of the request, which do not need the
    /// key.
    #[must_use]
    pub fn without_keys(&self, names: &[String]) -> String {
        let is_key = |name: &str| names.iter().any(|other| other.eq_ignore_ascii_case(name));
        let others: serde_json::Map<_, _> = self
            .0
            .iter()
            .filter(|(Text(name), _)| !is_key(name))
            .map(|(Text(name), Text(value))| (name.to_string(), value.as_ref().into()))
            .collect();
        serde_json::Value::Object(others).to_string()
    }

    /// The client's address: see [`forwarded::client_address`].
    #[must_use]
    pub fn client_address(&self, trusted_proxies: usize) -> Option<IpAddr> {
        let forwarded_for = self.values("X-Forwarded-For").next()?;
        forwarded::client_address(forwarded_for, trusted_proxies)
    }
}
