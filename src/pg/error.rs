//! Errors of this layer, and the report that each becomes.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

use crate::core::hash::HashError;
use crate::core::jsonb::TooLong;
use crate::core::refusal::Kind;

/// Errors besides a caller's mistake. No variant holds a secret or a hash.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// argon2 refuses the settings.
    #[error("argon2 parameters are out of range")]
    Cost,
    /// A hash from elsewhere takes too long to check.
    #[error("invalid hash")]
    TooCostly,
    /// A stored hash cannot be read.
    #[error("a stored hash of an API key is damaged")]
    StoredHash,
    /// The operating system gave no memory to hash in.
    #[error("no memory for argon2")]
    Memory,
    /// An answer that no jsonb holds.
    #[error("the answer is too long")]
    TooLong,
    /// A query of ours has other parameters or columns than it must have.
    #[error("a query of api_key has other types than its library")]
    Parameters,
    /// The extension's tables are not there.
    #[error("the extension api_key is not installed in this database")]
    NotInstalled,
    /// A table is not as this library reads it; what is not.
    #[error("the tables of api_key are not those of its library")]
    OtherVersion(&'static str),
    /// There is no worker to write use counts.
    #[error("nothing can be flushed here")]
    NothingToFlush,
    /// The root key cannot be had; what is wrong with it.
    #[error("the root key cannot be used")]
    RootKey(&'static str),
    /// Other hashes take all the room.
    #[error("no room to hash")]
    NoRoom,
    /// A text that was to be an id.
    #[error("invalid id")]
    InvalidId,
    /// There is no process to start workers.
    #[error("nothing can be flushed now")]
    NoLauncher,
    /// The worker had an error.
    #[error("the flush failed")]
    FlushFailed,
    /// A setting of PostgREST's is not what PostgREST sets.
    #[error("invalid request.headers")]
    RequestHeaders,
    /// The setting of the claims is not what PostgREST sets.
    #[error("invalid request.jwt.claims")]
    RequestClaims,
    /// Rate limits are counted in shared memory only.
    #[error("rate limits need api_key to be preloaded")]
    NoRateLimits,
    /// Another relation has the name of the one that was judged.
    #[error("the table has been replaced")]
    Replaced,
    /// There is no rate limit of the name.
    #[error("invalid p_name")]
    NoSuchRateLimit,
    /// The subject of `check_rate_limit` is NULL.
    #[error("invalid p_subject")]
    NoSubject,
    /// How much `check_rate_limit` is to count is not a number of requests.
    #[error("invalid p_cost")]
    RateLimitCost,
    /// Code of somebody else runs, which must not become the session's.
    #[error("{}", Kind::RESTRICTED.message)]
    NotHere,
    /// A text that was to be one command.
    #[error("more than one expression")]
    SeveralCommands,
}

impl From<TooLong> for Error {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl From<HashError> for Error {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Cost => Self::Cost,
            HashError::Stored => Self::StoredHash,
        }
    }
}

impl Error {
    const fn report(&self) -> (PgSqlErrorCode, &'static str, &'static str) {
        match self {
            Self::Cost => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "argon2 needs at least 8 KiB of memory for each lane; memory times passes may be 256 MiB at most.",
                "Set api_key.argon2_memory_kib to at least 8 times api_key.argon2_parallelism, and its product with api_key.argon2_iterations to at most 262144.",
            ),
            Self::TooCostly => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "It costs more to check than is allowed.",
                "bcrypt may have cost 14, argon2 256 MiB of memory times passes, 64 passes and 64 lanes. Issue a new key instead.",
            ),
            Self::StoredHash => (
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                "secret_hash is not the PHC string of an argon2 hash.",
                "Restore the row from a backup, or issue a new key.",
            ),
            Self::Memory => (
                PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
                "The operating system refused the work area of a hash.",
                "Lower api_key.argon2_memory_kib, or give the server more memory.",
            ),
            Self::TooLong => (
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "A jsonb object holds less than 256 MiB.",
                "Require fewer scopes.",
            ),
            Self::Parameters => (
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                "A parameter or a column is of another type.",
                "After an upgrade, restart the server and run ALTER EXTENSION api_key UPDATE.",
            ),
            Self::NotInstalled => (
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                "The table api_key_internal.keys is missing.",
                "CREATE EXTENSION api_key;",
            ),
            Self::OtherVersion(detail) => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                detail,
                "After an upgrade, restart the server and run ALTER EXTENSION api_key UPDATE; undo what else has changed the table.",
            ),
            Self::NothingToFlush => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "The server is a standby, or api_key is not in shared_preload_libraries.",
                "Add api_key to shared_preload_libraries and restart; a standby writes what it has counted when it is promoted.",
            ),
            Self::RootKey(detail) => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                detail,
                "Check api_key.root_key_file (mode 0600, 64 hexadecimal digits) or api_key.root_key_command, which is run again 10 seconds after it failed; restore the root key from its backup.",
            ),
            Self::NoRoom => (
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "There were too many hashes at once, for longer than api_key.hash_queue_timeout.",
                "Try again in a moment.",
            ),
            Self::InvalidId => (
                PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                "It is not a UUID.",
                "Pass a UUID (of a key, a user or a tenant), never the text of a key.",
            ),
            Self::NoLauncher => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "The api_key launcher does not run.",
                "Raise max_worker_processes by 2 and restart the server, or see its log.",
            ),
            Self::FlushFailed => (
                PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
                "The worker had an error; what it was to write is kept in memory.",
                "SELECT last_error FROM api_key.stats;",
            ),
            Self::RequestHeaders => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "The setting is not a JSON object of texts.",
                "PostgREST sets it; elsewhere SET it to the headers of the request as a JSON object.",
            ),
            Self::RequestClaims => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "The setting is not JSON.",
                "PostgREST sets it; elsewhere SET it to the claims as a JSON object.",
            ),
            Self::NoRateLimits => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "They are counted in shared memory, which there is none of.",
                "Add api_key to shared_preload_libraries and restart the server.",
            ),
            Self::Replaced => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "Meanwhile another one has its name.",
                "Try again.",
            ),
            Self::NoSuchRateLimit => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "There is no rate limit of this name.",
                "Define it: SELECT api_key.define_rate_limit('name', 10, '1 minute');",
            ),
            Self::NoSubject => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "p_subject is NULL.",
                "Pass what is counted, such as the text of a user's id. Without a key current_user_id() is NULL: call require_scope first.",
            ),
            Self::RateLimitCost => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "p_cost is NULL or less than 1.",
                "Pass how many requests to count, or leave it out for 1.",
            ),
            Self::NotHere => (
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                Kind::RESTRICTED.detail,
                Kind::RESTRICTED.hint,
            ),
            Self::SeveralCommands => (
                PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
                "The text holds several commands.",
                "Pass one expression.",
            ),
        }
    }

    /// Raises the error; does not return.
    pub fn raise(self) -> ! {
        let (code, detail, hint) = self.report();
        ErrorReport::new(code, self.to_string(), function_name!())
            .set_detail(detail)
            .set_hint(hint)
            .report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

/// Unwraps, or raises.
pub trait OrRaise<T> {
    /// The value, or an ERROR.
    fn or_raise(self) -> T;
}

impl<T, E: Into<Error>> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> T {
        self.unwrap_or_else(|error| error.into().raise())
    }
}
