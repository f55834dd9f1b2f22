//! Refusals of requests and commands. An HTTP request is answered in the form in which PostgREST takes it
//! (SQLSTATE PGRST: <https://docs.postgrest.org/en/v12/references/errors.html>).

use serde_json::json;

use super::gcra::Rate;
use super::verdict::Code;

/// The challenge of RFC 6750, section 3, before the error that was found.
const CHALLENGE: &str = r#"Bearer realm="api_key""#;
/// The public message for every key that may not be used, whatever its state is.
const NOT_GOOD: &str = "This API key is not valid.";

/// One kind of refusal: the one place for its status, code and texts.
///
/// Commands refuse in SQL (sql/05_refusals.sql), requests at the gate. In a request of PostgREST both
/// answer with `status` and a body; elsewhere the refusal is an error with `sqlstate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The name by which SQL refuses.
    pub name: &'static str,
    /// SQLSTATE of the error outside of PostgREST.
    pub sqlstate: &'static str,
    /// HTTP status.
    pub status: u16,
    /// The member `code` of the body.
    pub code: &'static str,
    /// MESSAGE, and the member `message` of the body.
    pub message: &'static str,
    /// DETAIL, and the member `details`. A refusal may say more instead.
    pub detail: &'static str,
    /// HINT, and the member `hint`.
    pub hint: &'static str,
    /// Which header goes with it.
    pub header: Header,
}

/// The header of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// None.
    None,
    /// `WWW-Authenticate` without an error: no key was sent.
    Challenge,
    /// `WWW-Authenticate` with `error="invalid_token"`.
    InvalidToken,
    /// `WWW-Authenticate` with `error="insufficient_scope"` and the scopes that are required.
    InsufficientScope,
    /// `Retry-After: 1`.
    RetryAfterASecond,
    /// `Retry-After`, `RateLimit` and `RateLimit-Policy` of a limit.
    RateLimit,
}

/// Declares the kinds as constants, and `Kind::ALL` of them.
macro_rules! kinds {
    ($($name:ident: $sqlstate:literal, $status:literal, $code:expr, $header:ident,
        $message:expr, $detail:expr, $hint:expr;)+) => {
        impl Kind {
            $(
                #[doc = concat!("HTTP ", stringify!($status), ", SQLSTATE ", $sqlstate, ".")]
                pub const $name: &'static Self = &Self {
                    name: stringify!($name),
                    sqlstate: $sqlstate,
                    status: $status,
                    code: $code,
                    message: $message,
                    detail: $detail,
                    hint: $hint,
                    header: Header::$header,
                };
            )+
            /// Every kind.
            pub const ALL: &'static [&'static Self] = &[$(Self::$name),+];
        }
    };
}

kinds! {
    KEY_REQUIRED: "28000", 401, "KEY_REQUIRED", Challenge,
        "An API key is required.",
        "The request was not authenticated by a key.",
        "Send the key in the header X-API-Key.";
    SEVERAL_KEYS: "22023", 400, "SEVERAL_KEYS", None,
        "The request has several API keys that differ.",
        "",
        "Send one key, in one header.";
    MALFORMED: "28000", 401, Code::Malformed.as_str(), InvalidToken,
        NOT_GOOD, "", "";
    NOT_FOUND: "28000", 401, Code::NotFound.as_str(), InvalidToken,
        NOT_GOOD, "", "";
    THROTTLED: "53400", 429, Code::Throttled.as_str(), RateLimit,
        Code::Throttled.message(), "", "";
    OVERLOADED: "53400", 503, Code::Overloaded.as_str(), RetryAfterASecond,
        Code::Overloaded.message(), "", "";
    REVOKED: "28000", 401, Code::Revoked.as_str(), InvalidToken,
        NOT_GOOD, "", "";
    DISABLED: "28000", 401, Code::Disabled.as_str(), InvalidToken,
        NOT_GOOD, "", "";
    NOT_YET_VALID: "28000", 401, Code::NotYetValid.as_str(), InvalidToken,
        NOT_GOOD, "", "";
    EXPIRED: "28000", 401, Code::Expired.as_str(), InvalidToken,
        NOT_GOOD, "", "";
    IP_NOT_ALLOWED: "42501", 403, Code::IpNotAllowed.as_str(), None,
        Code::IpNotAllowed.message(), "", "";
    RESOURCE_MISMATCH: "42501", 403, Code::ResourceMismatch.as_str(), None,
        Code::ResourceMismatch.message(),
        "The key is bound to one resource by its resource_id.",
        "Use a key of this resource.";
    INSUFFICIENT_SCOPE: "42501", 403, Code::InsufficientScope.as_str(), InsufficientScope,
        Code::InsufficientScope.message(), "", "Use a key that has the required scopes.";
    ROLE_NOT_ALLOWED: "42501", 403, "ROLE_NOT_ALLOWED", None,
        "The role of this API key is not allowed.",
        "",
        "Its issuer has to allow the role in api_key.key_roles, or give it another.";
    RATE_LIMITED: "53400", 429, "RATE_LIMITED", RateLimit,
        "Too many requests.", "", "Wait as long as the header Retry-After says.";
    ROW_NOT_ALLOWED: "42501", 403, "ROW_NOT_ALLOWED", None,
        "This API key may not write such a row.",
        "The row would belong to another tenant or to somebody else.",
        "Write rows of the key's own tenant and user.";
    RESOURCE_NOT_FOUND: "P0002", 404, "NOT_FOUND", None,
        "No such resource.",
        "There is none of this type and id that the caller may read.",
        "Check type and id, and whose key it is.";
    RESOURCE_NOT_ALLOWED: "42501", 403, "NOT_ALLOWED", None,
        "Not allowed for this resource.",
        "The caller may read it, but is neither its owner nor an admin of its tenant.",
        "Use a key of its owner, or one with the scope admin.";
    RESTRICTED: "42501", 403, "42501", None,
        "not allowed in code of somebody else",
        "Code runs with other rights than the session's: a table's owner's, or a SECURITY DEFINER function's.",
        "Call it in a statement of its own.";
    // PostgREST would answer 401 to a plain 42501 of a request without a token.
    MANAGING_NOT_ALLOWED: "42501", 403, "42501", None,
        "this API key may not manage keys",
        "The request was authenticated by a key without the scope api_keys:manage.",
        "Send the token of a user instead, or a key with that scope.";
    // PostgREST would answer 500 to P0002.
    NO_SUCH_KEY: "P0002", 404, "P0002", None,
        "no such key",
        "There is no key with this id, or it is not the caller's.",
        "list_api_keys() shows the keys that you may change.";
    // PostgREST would answer 503 to 53400.
    TOO_MANY_ACTIVE_KEYS: "53400", 409, "53400", None,
        "too many active keys",
        "The tier allows no more active keys to this user.",
        "Revoke one first, or raise the limit with define_tier.";
    NO_ROOM_TO_HASH: "53400", 503, "53400", RetryAfterASecond,
        "no room to hash now",
        "api_key.max_concurrent_hashes secrets are being hashed, and others wait.",
        "Try again in a moment.";
    CHECK_THROTTLED: "53400", 429, "53400", None,
        "the key cannot be checked now",
        "The check answered THROTTLED; nothing was revoked.",
        "Try again in a minute.";
    CHECK_OVERLOADED: "53400", 503, "53400", None,
        "the key cannot be checked now",
        "The check answered OVERLOADED; nothing was revoked.",
        "Try again in a minute.";
}

impl Kind {
    /// The kind that SQL refuses by `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().copied().find(|kind| kind.name == name)
    }

    /// The kind of a request whose key was answered with `code`; VALID is none.
    #[must_use]
    pub fn of(code: Code) -> Option<&'static Self> {
        Self::named(code.as_str())
    }
}

/// A refusal: its kind, and what this one says besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    kind: &'static Kind,
    detail: Option<String>,
    hint: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl From<&'static Kind> for Refusal {
    fn from(kind: &'static Kind) -> Self {
        let authenticate = |challenge: String| vec![("WWW-Authenticate", challenge)];
        let headers = match kind.header {
            Header::Challenge => authenticate(CHALLENGE.to_owned()),
            Header::InvalidToken => authenticate(format!(r#"{CHALLENGE}, error="invalid_token""#)),
            Header::InsufficientScope => {
                authenticate(format!(r#"{CHALLENGE}, error="insufficient_scope""#))
            }
            Header::RetryAfterASecond => vec![("Retry-After", "1".to_owned())],
            Header::None | Header::RateLimit => Vec::new(),
        };
        Self { kind, detail: None, hint: None, headers }
    }
}

impl Refusal {
    /// With a DETAIL of its own.
    #[must_use]
    pub fn with_detail(self, detail: String) -> Self {
        Self { detail: Some(detail), ..self }
    }

    /// With a HINT that names the headers in which keys are sent.
    #[must_use]
    pub fn no_key(header_names: &str) -> Self {
        let hint = Some(format!("Send the key in the header {header_names}."));
        Self { hint, ..Self::from(Kind::KEY_REQUIRED) }
    }

    /// A key without the scopes that are required: they are named in DETAIL and in the challenge.
    #[must_use]
    pub fn insufficient_scope(required: &[Option<String>], granted: &[String]) -> Self {
        // RFC 6750, section 3: no quotes, no backslashes, ASCII only.
        let named: Vec<_> = required.iter().flatten().map(String::as_str).collect();
        let mut scope = named.join(" ");
        scope.retain(|c| matches!(c, ' ' | '!' | '#'..='[' | ']'..='~'));
        let challenge = format!(r#"{CHALLENGE}, error="insufficient_scope", scope="{scope}""#);
        let detail = json!({ "required_scopes": required, "granted_scopes": granted });
        Self {
            detail: Some(detail.to_string()),
            headers: vec![("WWW-Authenticate", challenge)],
            ..Self::from(Kind::INSUFFICIENT_SCOPE)
        }
    }

    /// A request with a key that may not be used; `failure_rate` is what THROTTLED is about.
    #[must_use]
    pub fn of(code: Code, failure_rate: Rate) -> Self {
        // A VALID key is refused nowhere; should it come here, the answer lets nobody in.
        let refusal = Self::from(Kind::of(code).unwrap_or(Kind::NOT_FOUND));
        if code == Code::Throttled {
            let standing =
                Standing { name: "failures", rate: failure_rate, arrival: i64::MAX, now: 0 };
            return Self { headers: standing.refusal(failure_rate.interval()), ..refusal };
        }
        refusal
    }

    /// A request over a rate limit; `wait` is how long its client has to wait, in microseconds.
    #[must_use]
    pub fn rate_limited(standing: Standing<'_>, wait: i64) -> Self {
        Self {
            detail: Some(format!("The limit is \"{}\".", standing.name)),
            headers: standing.refusal(wait),
            ..Self::from(Kind::RATE_LIMITED)
        }
    }

    /// SQLSTATE, MESSAGE, DETAIL and HINT of the error outside of PostgREST.
    #[must_use]
    pub fn error(&self) -> [&str; 4] {
        [self.kind.sqlstate, self.kind.message, self.detail(), self.hint()]
    }

    /// MESSAGE and DETAIL with which PostgREST wants SQLSTATE PGRST raised.
    #[must_use]
    pub fn message_and_detail(&self) -> (String, String) {
        let headers: serde_json::Map<_, _> =
            self.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let body = json!({
            "code": self.kind.code,
            "message": self.kind.message,
            "details": text(self.detail()),
            "hint": text(self.hint()),
        });
        (body.to_string(), json!({ "status": self.kind.status, "headers": headers }).to_string())
    }

    fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.kind.detail)
    }

    fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or(self.kind.hint)
    }
}

/// How a client stands with a rate limit.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Name of the limit.
    pub name: &'a str,
    /// The rate that it allows, in microseconds.
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
            assert_eq!((refusal.kind.status, refusal.kind.message), (401, NOT_GOOD), "{code:?}");
            assert_eq!(
                header(&refusal, "WWW-Authenticate"),
                Some(r#"Bearer realm="api_key", error="invalid_token""#)
            );
        }
    }

    #[test]
    fn each_other_code_has_its_status() {
        assert_eq!(refusal(Code::IpNotAllowed).kind.status, 403);
        assert_eq!(refusal(Code::ResourceMismatch).kind.status, 403);
        assert_eq!(refusal(Code::InsufficientScope).kind.status, 403);
        let overloaded = refusal(Code::Overloaded);
        assert_eq!((overloaded.kind.status, header(&overloaded, "Retry-After")), (503, Some("1")));
        let throttled = refusal(Code::Throttled);
        assert_eq!((throttled.kind.status, header(&throttled, "Retry-After")), (429, Some("6")));
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
    fn each_kind_has_a_name_of_its_own_and_each_code_but_valid_a_kind() {
        for (at, kind) in Kind::ALL.iter().enumerate() {
            let found = Kind::ALL.iter().position(|other| other.name == kind.name);
            assert_eq!(found, Some(at), "{}", kind.name);
        }
        for code in Code::ALL {
            assert_eq!(Kind::of(code).is_some(), code != Code::Valid, "{code:?}");
        }
    }

    #[test]
    fn a_challenge_has_the_characters_of_a_quoted_string_only() {
        let refusal =
            Refusal::insufficient_scope(&[Some("a:b".into()), None, Some("c\"\\é:d".into())], &[]);
        assert_eq!(
            header(&refusal, "WWW-Authenticate"),
            Some(r#"Bearer realm="api_key", error="insufficient_scope", scope="a:b c:d""#)
        );
        assert_eq!(
            refusal.error()[2],
            r#"{"granted_scopes":[],"required_scopes":["a:b",null,"c\"\\é:d"]}"#
        );
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
