//! What a refused HTTP request is answered, in the form in which PostgREST takes it
//! (SQLSTATE PGRST: <https://docs.postgrest.org/en/v12/references/errors.html>).

use serde_json::json;

use super::gcra::Rate;
use super::verdict::Code;

/// The challenge of RFC 6750, section 3: who asks for a key, before the error that it found.
const CHALLENGE: &str = r#"Bearer realm="api_key""#;
/// Said of a key that is not good, whatever is wrong with it.
const NOT_GOOD: &str = "This API key is not valid.";

/// A refusal: status, headers and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    code: &'static str,
    message: &'static str,
    details: Option<String>,
    hint: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl Refusal {
    const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message, details: None, hint: None, headers: Vec::new() }
    }

    /// A request without a key where one is required; how its header is called.
    #[must_use]
    pub fn no_key(header_names: &str) -> Self {
        Self {
            hint: Some(format!("Send the key in the header {header_names}.")),
            headers: vec![("WWW-Authenticate", CHALLENGE.to_owned())],
            ..Self::new(401, "KEY_REQUIRED", "An API key is required.")
        }
    }

    /// A request with several keys that differ.
    #[must_use]
    pub fn several_keys() -> Self {
        Self {
            hint: Some("Send one key, in one header.".to_owned()),
            ..Self::new(400, "SEVERAL_KEYS", "The request has several API keys that differ.")
        }
    }

    /// A request with a key that is not good; `failure_rate` is what THROTTLED is about.
    #[must_use]
    pub fn of(code: Code, failure_rate: Rate) -> Self {
        let refusal = |status| Self::new(status, code.as_str(), code.message());
        match code {
            Code::Throttled => {
                let standing =
                    Standing { name: "failures", rate: failure_rate, arrival: i64::MAX, now: 0 };
                Self { headers: standing.refusal(failure_rate.interval()), ..refusal(429) }
            }
            Code::Overloaded => {
                Self { headers: vec![("Retry-After", "1".to_owned())], ..refusal(503) }
            }
            Code::IpNotAllowed | Code::ResourceMismatch | Code::InsufficientScope | Code::Valid => {
                refusal(403)
            }
            Code::Malformed
            | Code::NotFound
            | Code::Revoked
            | Code::Disabled
            | Code::NotYetValid
            | Code::Expired => Self {
                headers: vec![(
                    "WWW-Authenticate",
                    format!(r#"{CHALLENGE}, error="invalid_token""#),
                )],
                ..Self::new(401, code.as_str(), NOT_GOOD)
            },
        }
    }

    /// A request with a key whose role is not one of those that keys may have.
    #[must_use]
    pub fn role_not_allowed() -> Self {
        Self {
            hint: Some(
                "Its issuer has to allow the role in api_key.key_roles, or give it another."
                    .to_owned(),
            ),
            ..Self::new(403, "ROLE_NOT_ALLOWED", "The role of this API key is not allowed.")
        }
    }

    /// What [`Refusal::not_here`] says, also as a plain error.
    pub const NOT_HERE: &str = "not allowed in code of somebody else";
    /// Its detail.
    pub const NOT_HERE_DETAIL: &str = "Code runs with other rights than the session's: a table's owner's, or a SECURITY DEFINER function's.";
    /// Its hint.
    pub const NOT_HERE_HINT: &str = "Call it in a statement of its own.";

    /// An attempt of somebody else's code to change who the request is.
    #[must_use]
    pub fn not_here() -> Self {
        Self {
            details: Some(Self::NOT_HERE_DETAIL.to_owned()),
            hint: Some(Self::NOT_HERE_HINT.to_owned()),
            ..Self::new(403, "42501", Self::NOT_HERE)
        }
    }

    /// A request over a rate limit; `wait` is how long its client has to wait.
    #[must_use]
    pub fn rate_limited(standing: Standing<'_>, wait: i64) -> Self {
        Self {
            details: Some(format!("The limit is \"{}\".", standing.name)),
            hint: Some("Wait as long as the header Retry-After says.".to_owned()),
            headers: standing.refusal(wait),
            ..Self::new(429, "RATE_LIMITED", "Too many requests.")
        }
    }

    /// The texts with which to raise it: MESSAGE and DETAIL.
    #[must_use]
    pub fn message_and_detail(&self) -> (String, String) {
        let headers: serde_json::Map<_, _> =
            self.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let body = json!({
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "hint": self.hint,
        });
        (body.to_string(), json!({ "status": self.status, "headers": headers }).to_string())
    }
}

/// How a client stands with a rate limit.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Name of the limit.
    pub name: &'a str,
    /// What it allows, in microseconds.
    pub rate: Rate,
    /// Its state.
    pub arrival: i64,
    /// The time.
    pub now: i64,
}

impl Standing<'_> {
    /// The item of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-08): quota and window.
    #[must_use]
    pub fn policy(&self) -> String {
        let (quota, window) = (self.rate.remaining(0, 0), seconds(self.rate.window()));
        format!("\"{}\";q={quota};w={window}", self.name)
    }

    /// The item of `RateLimit`: what remains of the quota, and when all of it is back.
    #[must_use]
    pub fn item(&self) -> String {
        let remaining = self.rate.remaining(self.arrival, self.now);
        let reset = seconds(self.rate.reset(self.arrival, self.now).min(self.rate.window()));
        format!("\"{}\";r={remaining};t={reset}", self.name)
    }

    fn refusal(&self, wait: i64) -> Vec<(&'static str, String)> {
        vec![
            ("Retry-After", seconds(wait).max(1).to_string()),
            ("RateLimit", self.item()),
            ("RateLimit-Policy", self.policy()),
        ]
    }
}

/// Microseconds as whole seconds, rounded up: who waits that long has waited long enough.
#[must_use]
pub fn seconds(microseconds: i64) -> i64 {
    microseconds / 1_000_000 + i64::from(microseconds % 1_000_000 > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn header<'a>(refusal: &'a Refusal, name: &str) -> Option<&'a str> {
        let found = refusal.headers.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| value.as_str())
    }

    fn refusal(code: Code) -> Refusal {
        Refusal::of(code, Rate::new(10, MINUTE, 10))
    }

    #[test]
    fn keys_that_are_not_good_have_one_public_message() {
        for code in [
            Code::Malformed,
            Code::NotFound,
            Code::Revoked,
            Code::Disabled,
            Code::NotYetValid,
            Code::Expired,
        ] {
            let refusal = refusal(code);
            assert_eq!((refusal.status, refusal.message), (401, NOT_GOOD), "{code:?}");
            assert_eq!(
                header(&refusal, "WWW-Authenticate"),
                Some(r#"Bearer realm="api_key", error="invalid_token""#)
            );
        }
    }

    #[test]
    fn each_other_code_has_its_status() {
        assert_eq!(refusal(Code::IpNotAllowed).status, 403);
        assert_eq!(refusal(Code::ResourceMismatch).status, 403);
        assert_eq!(refusal(Code::InsufficientScope).status, 403);
        let overloaded = refusal(Code::Overloaded);
        assert_eq!((overloaded.status, header(&overloaded, "Retry-After")), (503, Some("1")));
        let throttled = refusal(Code::Throttled);
        assert_eq!((throttled.status, header(&throttled, "Retry-After")), (429, Some("6")));
        assert_eq!(header(&throttled, "RateLimit"), Some("\"failures\";r=0;t=60"));
        assert_eq!(header(&throttled, "RateLimit-Policy"), Some("\"failures\";q=10;w=60"));
    }

    #[test]
    fn a_limit_says_when_to_come_again() {
        let rate = Rate::new(10, MINUTE, 2);
        let standing = Standing { name: "next", rate, arrival: 11_000_000, now: 500_000 };
        let refusal = Refusal::rate_limited(standing, 4_500_001);
        assert_eq!(header(&refusal, "Retry-After"), Some("5"));
        assert_eq!(header(&refusal, "RateLimit"), Some("\"next\";r=0;t=11"));
        assert_eq!(header(&refusal, "RateLimit-Policy"), Some("\"next\";q=2;w=12"));
    }

    #[test]
    fn postgrest_finds_status_headers_and_body() {
        let (message, detail) = Refusal::no_key("X-API-Key").message_and_detail();
        let body: serde_json::Value = serde_json::from_str(&message).unwrap_or_default();
        assert_eq!(body["code"], "KEY_REQUIRED");
        assert_eq!(body["hint"], "Send the key in the header X-API-Key.");
        let answer: serde_json::Value = serde_json::from_str(&detail).unwrap_or_default();
        assert_eq!(answer["status"], 401);
        assert_eq!(answer["headers"]["WWW-Authenticate"], r#"Bearer realm="api_key""#);
    }
}
