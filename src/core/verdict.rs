//! The decision about a key: a row, a request and a time go in, a code comes out.

use super::scope;

/// The answers to a question about a key, in the order in which they are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Not the text of a key.
    Malformed,
    /// Unknown id or wrong secret; one answer for both.
    NotFound,
    /// Too many wrong secrets for this key id.
    Throttled,
    /// No room to hash.
    Overloaded,
    /// The key was revoked.
    Revoked,
    /// The key is switched off.
    Disabled,
    /// The key's `not_before` is still to come.
    NotYetValid,
    /// The key's `expires_at` has passed.
    Expired,
    /// The client's address is not one of the key's, or not known.
    IpNotAllowed,
    /// The key is bound to another resource.
    ResourceMismatch,
    /// The key lacks a scope that the caller requires.
    InsufficientScope,
    /// The key is good.
    Valid,
}

impl Code {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::NotFound,
        Self::Throttled,
        Self::Overloaded,
        Self::Revoked,
        Self::Disabled,
        Self::NotYetValid,
        Self::Expired,
        Self::IpNotAllowed,
        Self::ResourceMismatch,
        Self::InsufficientScope,
        Self::Valid,
    ];

    /// The code that callers read as `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// The code as callers read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "MALFORMED",
            Self::NotFound => "NOT_FOUND",
            Self::Throttled => "THROTTLED",
            Self::Overloaded => "OVERLOADED",
            Self::Revoked => "REVOKED",
            Self::Disabled => "DISABLED",
            Self::NotYetValid => "NOT_YET_VALID",
            Self::Expired => "EXPIRED",
            Self::IpNotAllowed => "IP_NOT_ALLOWED",
            Self::ResourceMismatch => "RESOURCE_MISMATCH",
            Self::InsufficientScope => "INSUFFICIENT_SCOPE",
            Self::Valid => "VALID",
        }
    }

    /// A sentence for people.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Malformed => "This is not the text of an API key.",
            Self::NotFound => "No such API key.",
            Self::Throttled => "Too many wrong secrets for this API key; try again in a minute.",
            Self::Overloaded => "This API key cannot be checked now; ask again with the same key.",
            Self::Revoked => "This API key was revoked.",
            Self::Disabled => "This API key is disabled.",
            Self::NotYetValid => "This API key is not valid yet.",
            Self::Expired => "This API key has expired.",
            Self::IpNotAllowed => "This API key may not be used from this address.",
            Self::ResourceMismatch => "This API key belongs to another resource.",
            Self::InsufficientScope => "This API key lacks a required scope.",
            Self::Valid => "This API key is valid.",
        }
    }
}

/// The part of a key's row that says when it may be used. Times are in one unit and epoch of the
/// caller's choice.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// It is valid from this time on.
    pub not_before: Option<i64>,
    /// It is valid before this time.
    pub expires_at: Option<i64>,
}

/// The state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It may be used.
    Active,
    /// It was revoked, for good.
    Revoked,
    /// It is switched off.
    Disabled,
    /// Its `not_before` is still to come.
    NotYetValid,
    /// Its `expires_at` has passed.
    Expired,
}

impl Status {
    /// The state as `list_api_keys` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
        }
    }
}

impl Validity {
    /// The state at `now`. The first reason against the key counts.
    #[must_use]
    pub fn status(self, now: i64) -> Status {
        if self.revoked {
            Status::Revoked
        } else if !self.enabled {
            Status::Disabled
        } else if self.not_before.is_some_and(|from| now < from) {
            Status::NotYetValid
        } else if self.expires_at.is_some_and(|until| now >= until) {
            Status::Expired
        } else {
            Status::Active
        }
    }
}

/// The part of a key's row that decides about a request whose secret was right.
#[derive(Debug, Clone, Copy)]
pub struct KeyState<'a> {
    /// When it may be used.
    pub validity: Validity,
    /// The resource that it is bound to.
    pub resource_id: Option<&'a [u8]>,
    /// The scopes that it has.
    pub scopes: &'a [&'a [u8]],
}

/// The question to the key.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The time of the question.
    pub now: i64,
    /// Whether the client's address is one of the key's, or the key has no list of them.
    pub ip_allowed: bool,
    /// The resource that the request is about. `None` asks nothing: the answer names the key's.
    pub resource_id: Option<&'a [u8]>,
    /// Scopes that the key must have, all of them. A `None` among them is never granted.
    pub required_scopes: &'a [Option<&'a [u8]>],
}

/// Decides about a key whose secret was right.
#[must_use]
pub fn decide(key: KeyState<'_>, request: Request<'_>) -> Code {
    let granted = |scope: &Option<&[u8]>| {
        scope.is_some_and(|scope| scope::grants(key.scopes.iter().copied(), scope))
    };
    match key.validity.status(request.now) {
        Status::Revoked => return Code::Revoked,
        Status::Disabled => return Code::Disabled,
        Status::NotYetValid => return Code::NotYetValid,
        Status::Expired => return Code::Expired,
        Status::Active => {}
    }
    if !request.ip_allowed {
        Code::IpNotAllowed
    } else if matches!((key.resource_id, request.resource_id), (Some(a), Some(b)) if a != b) {
        Code::ResourceMismatch
    } else if !request.required_scopes.iter().all(granted) {
        Code::InsufficientScope
    } else {
        Code::Valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyState<'_> = KeyState {
        validity: Validity {
            revoked: false,
            enabled: true,
            not_before: Some(10),
            expires_at: Some(20),
        },
        resource_id: Some(b"site-1"),
        scopes: &[b"articles:read"],
    };
    const REQUEST: Request<'_> = Request {
        now: 10,
        ip_allowed: true,
        resource_id: Some(b"site-1"),
        required_scopes: &[Some(b"articles:read")],
    };

    #[test]
    fn each_fault_has_its_code_and_the_first_in_order_wins() {
        let mut key = KEY;
        let mut request = REQUEST;
        assert_eq!(decide(key, request), Code::Valid);
        request.required_scopes = &[Some(b"articles:read"), Some(b"articles:write")];
        assert_eq!(decide(key, request), Code::InsufficientScope);
        request.resource_id = Some(b"site-2");
        assert_eq!(decide(key, request), Code::ResourceMismatch);
        request.ip_allowed = false;
        assert_eq!(decide(key, request), Code::IpNotAllowed);
        request.now = 20;
        assert_eq!(decide(key, request), Code::Expired);
        request.now = 9;
        assert_eq!(decide(key, request), Code::NotYetValid);
        key.validity.enabled = false;
        assert_eq!(decide(key, request), Code::Disabled);
        key.validity.revoked = true;
        assert_eq!(decide(key, request), Code::Revoked);
    }

    #[test]
    fn validity_begins_with_not_before_and_ends_before_expires_at() {
        for (now, code) in
            [(9, Code::NotYetValid), (10, Code::Valid), (19, Code::Valid), (20, Code::Expired)]
        {
            assert_eq!(decide(KEY, Request { now, ..REQUEST }), code, "at {now}");
        }
    }

    #[test]
    fn a_null_among_the_required_scopes_is_never_granted() {
        let key = KeyState { scopes: &[scope::ADMIN], ..KEY };
        let request = Request { required_scopes: &[None], ..REQUEST };
        assert_eq!(decide(key, request), Code::InsufficientScope);
    }

    #[test]
    fn a_resource_is_compared_only_when_both_name_one() {
        assert_eq!(decide(KEY, Request { resource_id: None, ..REQUEST }), Code::Valid);
        let unbound = KeyState { resource_id: None, ..KEY };
        assert_eq!(decide(unbound, REQUEST), Code::Valid);
    }
}
