//! The root key: 32 bytes that are not in the database. Under it the handles are made by which
//! legacy keys are found, so that a stolen database has no unsalted digest to attack.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hmac::Hmac;
use hmac::digest::{FixedOutput, KeyInit, Update};
use pgrx::log;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::core::handle::Handle;
use crate::core::legacy::Scheme;
use crate::core::table;
use crate::pg::error::{Error, OrRaise};
use crate::pg::legacy::command::{self, Failure};
use crate::pg::locks::Lock;
use crate::pg::memory::{self, CommandStatus};
use crate::pg::raw::call::sql_function;
use crate::pg::raw::server;
use crate::pg::raw::types::Str;
use crate::pg::settings;

/// The key under which the texts of legacy keys are looked up.
#[derive(Clone)]
pub struct RootKey {
    mac: Hmac<Sha256>,
    fingerprint: Handle,
}

/// The settings that a root key comes from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    command: String,
    file: String,
}

thread_local! {
    /// The root key, with the settings that it came from.
    static LOADED: RefCell<Option<(Source, RootKey)>> = const { RefCell::new(None) };
}

/// More than the root key and the white space around it take.
const MOST_BYTES: usize = 256;
const NOT_A_KEY: &str = "It is not 64 hexadecimal digits.";

impl RootKey {
    /// The root key, read once a backend and again when the settings change.
    ///
    /// # Errors
    /// `Error::RootKey` if it cannot be read; with `make` it is made if there is none.
    pub fn load(make: bool) -> Result<Self, Error> {
        let source =
            Source { command: settings::root_key_command(), file: settings::root_key_file() };
        let loaded = LOADED.with_borrow(|loaded| {
            loaded.as_ref().filter(|(from, _)| *from == source).map(|(_, key)| key.clone())
        });
        if let Some(key) = loaded {
            return Ok(key);
        }
        let key = if source.command.is_empty() {
            let text = from_file(&source.file, make)?;
            Self::read(&text).ok_or(Error::RootKey(NOT_A_KEY))?
        } else {
            memory::with(|state| Command(state.root_key_command).load(&source))?
        };
        LOADED.set(Some((source, key.clone())));
        Ok(key)
    }

    /// Reads the text of a root key.
    fn read(text: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 64]);
        base16ct::mixed::decode(text.trim_ascii(), &mut bytes[..32])
            .ok()
            .filter(|bytes| bytes.len() == 32)?;
        let mac = Hmac::new(&(*bytes).into());
        let mut key = Self { mac, fingerprint: Handle::default() };
        key.fingerprint = key.handle("fingerprint", b"");
        Some(key)
    }

    /// The handle of a text itself.
    pub fn of_text(&self, text: &[u8]) -> Handle {
        self.handle("text", text)
    }

    /// The handle of a digest.
    pub fn of_digest(&self, scheme: Scheme, digest: &[u8]) -> Handle {
        self.handle(scheme.as_str(), digest)
    }

    /// The handle by which a hash is recognised if it is imported once more.
    pub fn of_import(&self, stored: &str) -> Handle {
        self.handle("import", stored.as_bytes())
    }

    /// A fingerprint: it tells root keys apart, and nothing else.
    pub fn fingerprint(&self) -> String {
        base16ct::lower::encode_string(&self.fingerprint)
    }

    fn handle(&self, kind: &str, of: &[u8]) -> Handle {
        let mut mac = self.mac.clone();
        mac.update(kind.as_bytes());
        mac.update(&[0]);
        mac.update(of);
        let mut mac: [u8; 32] = mac.finalize_fixed().into();
        let mut handle = [0; 16];
        handle.copy_from_slice(&mac[..16]);
        mac.zeroize();
        handle
    }
}

fn from_file(path: &str, make: bool) -> Result<Zeroizing<Vec<u8>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && make => return make_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::RootKey("The file does not exist."));
        }
        Err(_) => return Err(Error::RootKey("The file cannot be read.")),
    };
    let unreadable = |_| Error::RootKey("The file cannot be read.");
    if file.metadata().map_err(unreadable)?.mode() & 0o077 != 0 {
        return Err(Error::RootKey("The file can be read by others than its owner."));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
    file.take(MOST_BYTES as u64).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn make_file(path: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |_| Error::RootKey("The file does not exist and cannot be made.");
    let mut bytes = Zeroizing::new([0; 32]);
    SysRng
        .try_fill_bytes(&mut *bytes)
        .map_err(|_| Error::RootKey("The operating system gives no random numbers."))?;
    let text = Zeroizing::new(base16ct::lower::encode_string(&*bytes).into_bytes());
    // Whole before it has its name: who sees the file sees all of it, and only one gets the name.
    let draft = format!("{path}.{}", std::process::id());
    let linked = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    match linked {
        Ok(()) => {
            let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(failed)?;
            folder.sync_all().map_err(failed)?;
            log!("api_key: made a root key; back it up apart from the database");
            Ok(text)
        }
        // Another session was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => from_file(path, false),
        Err(error) => Err(failed(error)),
    }
}

/// How long a command may take.
const COMMAND_TIME: Duration = Duration::from_secs(10);
/// How long a command that failed is not run again, in microseconds.
const PAUSE: i64 = 10_000_000;

/// The command of the root key, and how it fares for all backends: anybody can ask about a text, so
/// a command that fails is not run for each.
#[derive(Clone, Copy)]
struct Command<'a>(&'a CommandStatus);

/// Reasons why a command failed.
const REASONS: [&str; 5] = [
    "The command took too long, and was ended.",
    "The command cannot be run.",
    "The command failed.",
    NOT_A_KEY,
    "The command takes longer than statement_timeout allows here.",
];
/// The place of the last one. A session that gives up says nothing to those that wait longer: only
/// sessions that would give up as soon do not run the command again.
const INTERRUPTED: usize = 4;

impl Command<'_> {
    /// Runs the command, in one session at a time.
    fn load(&self, source: &Source) -> Result<RootKey, Error> {
        self.last_failure(source)?;
        Lock::RootKeyCommand.take();
        // While this one waited, another may have found that it fails.
        let key = self.last_failure(source).and_then(|()| self.run(source));
        Lock::RootKeyCommand.release();
        key
    }

    fn run(&self, source: &Source) -> Result<RootKey, Error> {
        let mut run = Run { of: self.0, source, begun: Instant::now(), outcome: None };
        let key = command::output(&source.command, MOST_BYTES, COMMAND_TIME)
            .map_err(|failure| match failure {
                Failure::TooSlow => 0,
                Failure::NotRun => 1,
                Failure::Failed => 2,
                Failure::TooMuch => 3,
            })
            .and_then(|text| RootKey::read(&text).ok_or(3));
        run.outcome = Some(key.as_ref().err().copied());
        drop(run);
        key.map_err(|reason| Error::RootKey(REASONS[reason]))
    }

    /// The failure because of which the command is not to be run now.
    fn last_failure(&self, source: &Source) -> Result<(), Error> {
        let failed_at = self.0.failed_at.load(Ordering::Acquire);
        let paused = failed_at != 0
            && server::monotonic_now() - failed_at < PAUSE
            && self.0.source.load(Ordering::Relaxed) == table::hash(source);
        let reason = self.0.reason.load(Ordering::Relaxed);
        let concerns = reason != INTERRUPTED || is_too_short(self.0.lasted.load(Ordering::Relaxed));
        let reason = REASONS.get(reason).filter(|_| paused && concerns);
        reason.map_or(Ok(()), |reason| Err(Error::RootKey(reason)))
    }
}

/// Whether `statement_timeout` would interrupt a command that has run for so long, in microseconds. The
/// statement began a little before the command did.
fn is_too_short(lasted: i64) -> bool {
    let timeout = i64::from(server::statement_timeout()) * 1000;
    timeout != 0 && timeout <= lasted + lasted / 8 + 50_000
}

/// A run of the command, whose outcome is noted when it is dropped.
struct Run<'a> {
    of: &'a CommandStatus,
    source: &'a Source,
    begun: Instant,
    /// `None` while it runs, and so for one that is interrupted; then the reason if it failed.
    outcome: Option<Option<usize>>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let reason = match self.outcome {
            Some(None) => {
                self.of.failed_at.store(0, Ordering::Release);
                return;
            }
            Some(Some(reason)) => reason,
            None => {
                let lasted = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
                self.of.lasted.store(lasted, Ordering::Relaxed);
                INTERRUPTED
            }
        };
        self.of.reason.store(reason, Ordering::Relaxed);
        self.of.source.store(table::hash(self.source), Ordering::Relaxed);
        self.of.failed_at.store(server::monotonic_now(), Ordering::Release);
    }
}

sql_function! {
    /// The fingerprint of the root key, which is made if this database has had none.
    fn root_key_fingerprint() -> Str {
        let make = crate::pg::keys::rows::root_key_fingerprint().is_none();
        RootKey::load(make).or_raise().fingerprint()
    }
}
