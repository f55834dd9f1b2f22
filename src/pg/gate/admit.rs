//! The gate: what PostgREST says of a request goes in; out comes an identity for the transaction,
//! or a refusal. `authenticate_request` (sql/40_gate.sql) raises the refusal, because an SQLSTATE
//! of PostgREST's own does not get through Rust.

use std::net::{IpAddr, Ipv6Addr};

use uuid::Uuid;

use crate::core::claims::Claims;
use crate::core::headers::Headers;
use crate::core::jsonb::object;
use crate::core::refusal::{Kind, Refusal};
use crate::core::subject::Subject;
use crate::core::verdict::Code;
use crate::pg::error::{Error, OrRaise};
use crate::pg::gate::identity::{self, Identity};
use crate::pg::gate::limits::{Limit, Per};
use crate::pg::keys::rows::Keys;
use crate::pg::raw::call::sql_function;
use crate::pg::raw::inet::Inet;
use crate::pg::raw::options::{get as setting, set};
use crate::pg::raw::types::{Bool, Jsonb, Text};
use crate::pg::settings;
use crate::pg::verify::answer::{self, Question};
use crate::pg::verify::prove::ProvenKey;

sql_function! {
    /// NULL, or the texts of a refusal.
    fn admit_request() -> Option<Jsonb> {
        admitted().err().map(|refusal| {
            let (message, detail) = refusal.message_and_detail();
            let texts = object(&mut [
                ("message", message.as_bytes().into()),
                ("detail", detail.as_bytes().into()),
            ]);
            texts.or_raise()
        })
    }

    /// Whether keys may be given this role.
    fn is_key_role(role: Text) -> Bool {
        settings::key_roles().iter().any(|allowed| allowed.as_bytes() == role)
    }
}

fn admitted() -> Result<(), Refusal> {
    let headers = setting(c"request.headers");
    let headers = Headers::parse(&headers).unwrap_or_else(|_| Error::RequestHeaders.raise());
    let key_headers = settings::header_names();
    // Once through the gate, the key is in the headers no more: it is still who acts.
    if identity::is_set() && headers.keys(&key_headers).next().is_none() {
        return Ok(());
    }
    let mut limits = Limits::of(&setting(c"request.method"), &path());
    let client = headers.client_address(settings::trusted_proxies());
    let mut requester = Requester { client, ..Requester::default() };
    // Before the key is looked at, so that guessing is limited too.
    limits.take(|per| per == Per::Client, &requester)?;

    let key = match headers.key(&key_headers)? {
        Some(text) => {
            check_place()?;
            Some(verified(text, &mut requester)?)
        }
        None if settings::require_key() => {
            return Err(Refusal::no_key(&key_headers.join(" or ")));
        }
        None => {
            requester.read_claims();
            None
        }
    };
    limits.take(|per| per != Per::Client, &requester)?;

    if let Some((role, object)) = key {
        set("request.headers", &headers.without_keys(&key_headers));
        set("request.jwt.claims", &requester.claims(&role));
        set("role", &role);
        identity::set(requester.identity(Some(object)));
    } else if settings::trust_token_claims() && requester.user_id.is_some() {
        check_place()?;
        identity::set(requester.identity(None));
    }
    limits.announce();
    Ok(())
}

/// Refuses to set an identity where code runs that is not the session's own.
fn check_place() -> Result<(), Refusal> {
    if identity::may_be_set() {
        return Ok(());
    }
    // Others than PostgREST get a plain error.
    if setting(c"request.method").is_empty() {
        Error::NotHere.raise();
    }
    Err(Kind::RESTRICTED.into())
}

/// The role of a key, and what `verify_api_key` says of it: a jsonb without its length.
fn verified(text: &str, requester: &mut Requester) -> Result<(String, Vec<u8>), Refusal> {
    let answer = answer::answer(Question {
        text: Some(text.as_bytes()),
        client_ip: requester.client.and_then(Inet::from_ip),
        ..Question::default()
    });
    match &answer.key {
        Some(key) if answer.code == Code::Valid => {
            requester.read_key(key);
            Ok((role(key)?, answer.object()))
        }
        _ => Err(Refusal::of(answer.code, settings::failure_rate())),
    }
}

/// The database role of a key's requests.
fn role(key: &ProvenKey) -> Result<String, Refusal> {
    match key.row.get(Keys::ROLE) {
        None => Ok(settings::authenticated_role()),
        Some(role) => Some(String::from_utf8_lossy(role).into_owned())
            .filter(|role| is_key_role(role.as_bytes()))
            .ok_or_else(|| Kind::ROLE_NOT_ALLOWED.into()),
    }
}

/// The path of the request as PostgREST routes it: what it passes on is what the client wrote, be
/// it percent-encoded or without the first slash.
fn path() -> String {
    let written = setting(c"request.path");
    let path = percent_encoding::percent_decode_str(&written).decode_utf8_lossy();
    if path.starts_with('/') { path.into_owned() } else { format!("/{path}") }
}

/// The maker of the request, as far as it is known.
#[derive(Default)]
struct Requester {
    client: Option<IpAddr>,
    key_id: Option<Uuid>,
    user_id: Option<Uuid>,
    tenant_id: Option<Uuid>,
    tier: Option<String>,
    /// None only for a token without the claim.
    scopes: Option<Vec<String>>,
}

impl Requester {
    fn read_key(&mut self, key: &ProvenKey) {
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        self.key_id = Some(key.key_id);
        self.user_id = key.row.get(Keys::USER_ID);
        self.tenant_id = key.row.get(Keys::TENANT_ID);
        self.tier = key.row.get(Keys::TIER).map(text);
        self.scopes = Some(answer::scopes(&key.row).into_iter().flatten().map(text).collect());
    }

    /// Takes over what PostgREST has read from the token of the request.
    fn read_claims(&mut self) {
        // A claim that cannot be read gives nobody an identity; commands refuse it.
        let Ok(claims) = Claims::read(&setting(c"request.jwt.claims")) else { return };
        self.user_id = claims.user_id.value();
        self.tenant_id = claims.tenant_id.value();
        self.tier = claims.tier.value();
        self.scopes = claims.scopes.value();
    }

    /// The claims that policies written for tokens read.
    fn claims(&self, role: &str) -> String {
        let scopes = self.scopes.as_deref().unwrap_or_default();
        let mut claims = serde_json::json!({ "role": role, "scopes": scopes });
        let optional = [
            ("sub", self.user_id.map(|id| id.to_string())),
            ("tenant_id", self.tenant_id.map(|id| id.to_string())),
            ("key_id", self.key_id.map(|id| id.to_string())),
            ("tier", self.tier.clone()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                claims[name] = value.into();
            }
        }
        claims.to_string()
    }

    fn identity(self, api_key: Option<Vec<u8>>) -> Identity {
        Identity {
            key_id: self.key_id,
            user_id: self.user_id,
            tenant_id: self.tenant_id,
            scopes: self.scopes,
            tier: self.tier,
            api_key,
        }
    }

    /// The subject under which a limit counts this request; `None` if it does not concern it.
    fn subject(&self, limit: &Limit) -> Option<Subject> {
        if let Some(tier) = &limit.tier
            && self.tier.as_ref().is_none_or(|of| of.as_bytes() != tier)
        {
            return None;
        }
        let text = |id: Option<Uuid>| id.map(|id| id.to_string());
        let subject = match limit.per? {
            Per::Key => text(self.key_id),
            Per::User => text(self.user_id),
            Per::Tenant => text(self.tenant_id),
            Per::Tier => self.tier.clone(),
            // Clients of whom nothing is known share one count.
            Per::Client => Some(self.client.map_or_else(String::new, network)),
        };
        subject.map(|subject| limit.subject(subject.as_bytes(), self.user_id))
    }
}

/// The network that one client has to itself: an IPv4 address, or 64 bits of an IPv6 address
/// (RFC 6177), whose rest it may choose at will.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).to_string(),
    }
}

/// The limits of a request, and what they have said.
#[derive(Default)]
struct Limits {
    all: Vec<Limit>,
    /// Which were taken, and where: given back if the request is refused after all.
    taken: Vec<(usize, Subject)>,
    items: Vec<String>,
    policies: Vec<String>,
}

impl Limits {
    fn of(method: &str, path: &str) -> Self {
        let mut all = Limit::all();
        all.retain(|limit| limit.per.is_some() && limit.covers(method.as_bytes(), path.as_bytes()));
        Self { all, ..Self::default() }
    }

    /// Takes a request of each limit that is wanted and concerns the requester.
    fn take(&mut self, wanted: impl Fn(Per) -> bool, requester: &Requester) -> Result<(), Refusal> {
        for (at, limit) in self.all.iter().enumerate() {
            if !limit.per.is_some_and(&wanted) {
                continue;
            }
            let Some(subject) = requester.subject(limit) else { continue };
            // Clients have room of their own, and tiers are few.
            let is_claimed =
                requester.key_id.is_none() && matches!(limit.per, Some(Per::User | Per::Tenant));
            let (standing, taken) =
                if is_claimed { limit.take_claimed(subject) } else { limit.take(subject) };
            let place = match taken {
                Ok(place) => place,
                Err(wait) => {
                    let refusal = Refusal::rate_limited(standing, wait);
                    self.give_back();
                    return Err(refusal);
                }
            };
            self.items.push(standing.item());
            self.policies.push(standing.policy());
            self.taken.push((at, place));
        }
        Ok(())
    }

    /// One limit refuses: the others have not let this request through either.
    fn give_back(&mut self) {
        for (at, place) in self.taken.drain(..) {
            self.all[at].give_back(place);
        }
    }

    /// The headers of the response, where PostgREST looks for them.
    fn announce(&self) {
        if !self.items.is_empty() {
            let headers = serde_json::json!([
                { "RateLimit": self.items.join(", ") },
                { "RateLimit-Policy": self.policies.join(", ") },
            ]);
            set("response.headers", &headers.to_string());
        }
    }
}
