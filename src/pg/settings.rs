//! Settings, all under `api_key.`. Each with its reason for being.

use std::ffi::{CStr, CString};
use std::num::NonZero;
use std::sync::LazyLock;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::core::gcra::Rate;
use crate::core::hash::Cost;
use crate::pg::raw::{options, server};

static ARGON2_MEMORY_KIB: GucSetting<i32> = GucSetting::<i32>::new(19_456);
static ARGON2_ITERATIONS: GucSetting<i32> = GucSetting::<i32>::new(2);
static ARGON2_PARALLELISM: GucSetting<i32> = GucSetting::<i32>::new(1);

// 28 MB together. A server with a hundred thousand keys in use neither hashes known secrets again
// nor flushes before the interval is over; both cost far more.
static MEMO_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(262_144);
static USAGE_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(262_144);
static FAILURE_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(16_384);
static REFUSAL_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(4_096);
static FAILURE_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(10);
static MAX_CONCURRENT_HASHES: GucSetting<i32> = GucSetting::<i32>::new(0);
static HASH_QUEUE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(2_000);
static LEGACY_SCAN_TIME: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static ROOT_KEY_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"api_key_root_key"));
static ROOT_KEY_COMMAND: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static RATE_LIMIT_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(65_536);
static HEADER_NAMES: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"X-API-Key"));
static REQUIRE_KEY: GucSetting<bool> = GucSetting::<bool>::new(false);
static TRUSTED_PROXIES: GucSetting<i32> = GucSetting::<i32>::new(0);
static AUTHENTICATED_ROLE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"authenticated"));
static KEY_ROLES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TRUST_TOKEN_CLAIMS: GucSetting<bool> = GucSetting::<bool>::new(false);
static FLUSH_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10);

/// How many entries the structures in shared memory have.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Sizes {
    /// Known secrets.
    pub memo_entries: usize,
    /// Keys with use counts to be written.
    pub usage_entries: usize,
    /// Keys with wrong secrets of late.
    pub failure_entries: usize,
    /// Kinds of refusals to be written.
    pub refusal_entries: usize,
    /// Subjects of rate limits of a kind: requests, clients, checks.
    pub rate_limit_entries: usize,
    /// Processes that may want to hash.
    pub backends: usize,
}

impl Sizes {
    /// The sizes that a backend takes for itself without preloading: about 100 kB.
    pub const fn of_a_backend() -> Self {
        Self {
            memo_entries: 4_096,
            usage_entries: 16,
            failure_entries: 512,
            refusal_entries: 16,
            rate_limit_entries: 16,
            backends: 0,
        }
    }
}

/// The sizes that the settings ask for.
pub fn sizes() -> Sizes {
    let entries = |setting: &GucSetting<i32>| usize::try_from(setting.get()).unwrap_or(1);
    Sizes {
        memo_entries: entries(&MEMO_ENTRIES),
        usage_entries: entries(&USAGE_ENTRIES),
        failure_entries: entries(&FAILURE_ENTRIES),
        refusal_entries: entries(&REFUSAL_ENTRIES),
        rate_limit_entries: entries(&RATE_LIMIT_ENTRIES),
        backends: server::max_backends(),
    }
}

/// Wrong secrets for a key id: so many a minute, and so many at once.
pub fn failure_rate() -> Rate {
    let limit = FAILURE_LIMIT.get().unsigned_abs();
    Rate::new(limit, 60_000_000, limit)
}

/// How many secrets may be hashed at a time. The default is the number of processors: more would
/// not end sooner, and each takes the memory of a hash.
pub fn max_concurrent_hashes() -> usize {
    // Asked once: the answer is read from files.
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    match usize::try_from(MAX_CONCURRENT_HASHES.get()) {
        Ok(0) | Err(_) => *PROCESSORS,
        Ok(most) => most,
    }
}

/// How long a check waits for room to hash.
pub fn hash_queue_timeout() -> Duration {
    Duration::from_millis(HASH_QUEUE_TIMEOUT.get().unsigned_abs().into())
}

/// How long one call looks for the key of a text among legacy keys that share its prefix.
pub fn legacy_scan_time() -> Duration {
    Duration::from_millis(LEGACY_SCAN_TIME.get().unsigned_abs().into())
}

/// The headers in which requests carry keys.
pub fn header_names() -> Vec<String> {
    list(&HEADER_NAMES)
}

/// Whether requests without a key are refused.
pub fn require_key() -> bool {
    REQUIRE_KEY.get()
}

/// How many proxies in front of PostgREST say truly whom they speak for.
pub fn trusted_proxies() -> usize {
    usize::try_from(TRUSTED_PROXIES.get()).unwrap_or(0)
}

/// The role of requests with a key.
pub fn authenticated_role() -> String {
    text(&AUTHENTICATED_ROLE)
}

/// The roles that keys may be given.
pub fn key_roles() -> Vec<String> {
    list(&KEY_ROLES)
}

/// Whether the claims of a token are an identity as a key is.
pub fn trust_token_claims() -> bool {
    TRUST_TOKEN_CLAIMS.get()
}

fn list(setting: &GucSetting<Option<CString>>) -> Vec<String> {
    let names = text(setting);
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The file of the root key, relative to the data folder.
pub fn root_key_file() -> String {
    text(&ROOT_KEY_FILE)
}

/// The command that prints the root key; empty for none.
pub fn root_key_command() -> String {
    text(&ROOT_KEY_COMMAND)
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// How often use counts and refusals are written.
pub fn flush_interval() -> Duration {
    Duration::from_secs(FLUSH_INTERVAL.get().unsigned_abs().into())
}

/// The cost of new hashes. The defaults are OWASP's (Password Storage Cheat Sheet: 19 MiB, t=2,
/// p=1). Keys made under other values still verify.
pub fn argon2_cost() -> Cost {
    Cost {
        memory_kib: ARGON2_MEMORY_KIB.get().unsigned_abs(),
        iterations: ARGON2_ITERATIONS.get().unsigned_abs(),
        parallelism: ARGON2_PARALLELISM.get().unsigned_abs(),
    }
}

/// Makes the settings known to PostgreSQL.
pub fn register(preloading: bool) {
    use GucContext::{Postmaster, Sighup, Suset};
    let plain = GucFlags::default();

    // Superusers only: whoever could lower the cost could weaken the keys of others.
    integer(
        c"api_key.argon2_memory_kib",
        c"Memory of argon2id for new secrets, in KiB.",
        c"At least 8 times api_key.argon2_parallelism. Multiplied by api_key.argon2_iterations it may not exceed 262144. Keys made under another cost still verify.",
        &ARGON2_MEMORY_KIB,
        (8, 256 * 1024),
        (Suset, plain),
    );
    integer(
        c"api_key.argon2_iterations",
        c"Passes of argon2id over its memory for new secrets.",
        c"The time of a hash is proportional to memory times passes. Keys made under another cost still verify.",
        &ARGON2_ITERATIONS,
        (1, 1000),
        (Suset, plain),
    );
    integer(
        c"api_key.argon2_parallelism",
        c"Lanes of argon2id for new secrets.",
        c"The lanes are computed one after another, so more of them save no time. Keys made under another cost still verify.",
        &ARGON2_PARALLELISM,
        (1, 64),
        (Suset, plain),
    );
    integer(
        c"api_key.failure_limit",
        c"How many wrong secrets of a key id are hashed in a minute.",
        c"Further ones are answered THROTTLED without hashing. Known secrets are not counted, so the key itself keeps working.",
        &FAILURE_LIMIT,
        (1, 1_000_000),
        (Suset, plain),
    );
    integer(
        c"api_key.max_concurrent_hashes",
        c"How many secrets are hashed at the same time, in all sessions together.",
        c"0 means the number of processors. Each hash takes the memory of api_key.argon2_memory_kib. Further checks wait, see api_key.hash_queue_timeout.",
        &MAX_CONCURRENT_HASHES,
        (0, 1024),
        (Sighup, plain),
    );
    integer(
        c"api_key.hash_queue_timeout",
        c"How long a check waits for room to hash before it answers OVERLOADED.",
        c"See api_key.max_concurrent_hashes.",
        &HASH_QUEUE_TIMEOUT,
        (0, 600_000),
        (Suset, GucFlags::UNIT_MS),
    );
    integer(
        c"api_key.flush_interval",
        c"How often the worker writes use counts and refusals to tables.",
        c"usage_count and last_used_at are older by as much, and a crash loses as much.",
        &FLUSH_INTERVAL,
        (1, 3600),
        (Sighup, GucFlags::UNIT_S),
    );
    integer(
        c"api_key.legacy_scan_time",
        c"How long one check searches legacy keys with salted hashes before it answers OVERLOADED.",
        c"The next check of the same text continues the search. Set it below statement_timeout.",
        &LEGACY_SCAN_TIME,
        (1, 600_000),
        (Suset, GucFlags::UNIT_MS),
    );
    // Superusers only: whoever could change these could open the gate.
    for (name, short, long, setting) in [
        (
            c"api_key.header_names",
            c"Headers in which requests carry keys, separated by commas.",
            c"A request whose headers carry different keys is refused (SEVERAL_KEYS).",
            &HEADER_NAMES,
        ),
        (
            c"api_key.authenticated_role",
            c"Role of requests with a key that has no role of its own.",
            c"PostgREST's login must be a member of it.",
            &AUTHENTICATED_ROLE,
        ),
        (
            c"api_key.key_roles",
            c"Roles that set_api_key_role may give to keys, separated by commas.",
            c"Requests with a key whose role is not among them are refused (ROLE_NOT_ALLOWED). Empty means none.",
            &KEY_ROLES,
        ),
    ] {
        GucRegistry::define_string_guc(name, short, long, setting, Suset, plain);
    }
    for (name, short, long, setting) in [
        (
            c"api_key.require_key",
            c"Refuses requests without a key (KEY_REQUIRED).",
            c"If off, they continue as the role of their token, or as the anonymous role.",
            &REQUIRE_KEY,
        ),
        (
            c"api_key.trust_token_claims",
            c"Takes the claims of a request's token for its identity if it has no key.",
            c"Use it only in databases where nobody can run SQL of their own as one of PostgREST's roles: such a role can set the claims.",
            &TRUST_TOKEN_CLAIMS,
        ),
    ] {
        GucRegistry::define_bool_guc(name, short, long, setting, Suset, plain);
    }
    integer(
        c"api_key.trusted_proxies",
        c"How many proxies in front of PostgREST add the address of their client to X-Forwarded-For.",
        c"0 means none: the header is ignored, keys with allowed_ips are refused, and all clients share a limit per client.",
        &TRUSTED_PROXIES,
        (0, 100),
        (Suset, plain),
    );
    // Not shown to others than superusers: it may say where a secret is.
    let hidden = GucFlags::SUPERUSER_ONLY;
    GucRegistry::define_string_guc(
        c"api_key.root_key_file",
        c"File of the root key, relative to the data directory.",
        c"It holds 64 hexadecimal digits, and only the server's user may read it. It is made when it is first needed.",
        &ROOT_KEY_FILE,
        Sighup,
        hidden,
    );
    GucRegistry::define_string_guc(
        c"api_key.root_key_command",
        c"Shell command that prints the root key, instead of a file.",
        c"It must print 64 hexadecimal digits within 10 seconds. After a failure it is not run again for 10 seconds.",
        &ROOT_KEY_COMMAND,
        Sighup,
        hidden,
    );
    // Settings that size shared memory can be set only before there is any.
    if preloading {
        integer(
            c"api_key.memo_entries",
            c"How many known secrets are kept in memory, at 18 bytes each.",
            c"A known secret is not hashed again. Raise it if memo_misses in api_key.stats keeps rising while memo_entries equals memo_capacity.",
            &MEMO_ENTRIES,
            (64, 64 * 1024 * 1024),
            (Postmaster, plain),
        );
        integer(
            c"api_key.usage_entries",
            c"How many keys have use counts in memory until they are written, at 88 bytes each.",
            c"If three quarters are in use, the worker writes them before api_key.flush_interval is over.",
            &USAGE_ENTRIES,
            (64, 64 * 1024 * 1024),
            (Postmaster, plain),
        );
        integer(
            c"api_key.failure_entries",
            c"How many keys have a failure budget in memory.",
            c"See api_key.failure_limit.",
            &FAILURE_ENTRIES,
            (64, 64 * 1024 * 1024),
            (Postmaster, plain),
        );
        integer(
            c"api_key.refusal_entries",
            c"How many kinds of refusals (code, key, address) are kept apart in memory until they are written.",
            c"See the event refused in api_key.audit_log.",
            &REFUSAL_ENTRIES,
            (64, 1024 * 1024),
            (Postmaster, plain),
        );
        integer(
            c"api_key.rate_limit_entries",
            c"How many subjects of rate limits are counted at the same time, at 40 bytes each.",
            c"There are as many places each for clients, for subjects of check_rate_limit alone, and for all others. A subject without a place is refused.",
            &RATE_LIMIT_ENTRIES,
            (64, 64 * 1024 * 1024),
            (Postmaster, plain),
        );
    }
    options::reserve_prefix(c"api_key");
}

fn integer(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<i32>,
    (least, most): (i32, i32),
    (context, flags): (GucContext, GucFlags),
) {
    GucRegistry::define_int_guc(name, short, long, setting, least, most, context, flags);
}
