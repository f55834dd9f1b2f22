//! The root key: 32 bytes that are not in the database. Under it the handles are made by which
//! legacy keys are found, so that a stolen database has no unsalted digest to attack.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use hmac::Hmac;
use hmac::digest::{FixedOutput, KeyInit, Update};
use pgrx::prelude::*;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::error::{Error, OrRaise};
use super::settings;
use crate::core::legacy::Scheme;

/// By which a legacy key is found: HMAC-SHA256 under the root key, cut to 128 bits.
pub type Handle = [u8; 16];

/// What the texts of legacy keys are looked up by.
#[derive(Clone)]
pub struct RootKey {
    mac: Hmac<Sha256>,
    fingerprint: Handle,
}

thread_local! {
    /// The root key, with the settings that it came from.
    static LOADED: RefCell<Option<((String, String), RootKey)>> = const { RefCell::new(None) };
}

impl RootKey {
    /// The root key, read once a backend and again when the settings change.
    ///
    /// # Errors
    /// `Error::RootKey` if it cannot be read; with `make` it is made if there is none.
    pub fn load(make: bool) -> Result<Self, Error> {
        let source = (settings::root_key_command(), settings::root_key_file());
        LOADED.with_borrow_mut(|loaded| {
            if let Some((from, key)) = loaded
                && *from == source
            {
                return Ok(key.clone());
            }
            let text = if source.0.is_empty() {
                from_file(&source.1, make)?
            } else {
                from_command(&source.0)?
            };
            let mut bytes = Zeroizing::new([0; 64]);
            base16ct::mixed::decode(text.trim_ascii(), &mut bytes[..32])
                .ok()
                .filter(|bytes| bytes.len() == 32)
                .ok_or(Error::RootKey("It is not 64 hexadecimal digits."))?;
            let mac = Hmac::new(&(*bytes).into());
            let mut key = Self { mac, fingerprint: Handle::default() };
            key.fingerprint = key.handle("fingerprint", b"");
            *loaded = Some((source, key.clone()));
            Ok(key)
        })
    }

    /// The handle of a text itself.
    pub fn of_text(&self, text: &[u8]) -> Handle {
        self.handle("text", text)
    }

    /// The handle of a digest.
    pub fn of_digest(&self, scheme: Scheme, digest: &[u8]) -> Handle {
        self.handle(scheme.as_str(), digest)
    }

    /// What a hash is known again by, should it be imported once more.
    pub fn of_import(&self, stored: &str) -> Handle {
        self.handle("import", stored.as_bytes())
    }

    /// What tells root keys apart, and tells nothing else of them.
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
    let mut text = Zeroizing::new(Vec::with_capacity(256));
    file.take(256).read_to_end(&mut text).map_err(unreadable)?;
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

fn from_command(command: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|_| Error::RootKey("The command cannot be run."))?;
    let text = Zeroizing::new(output.stdout);
    if output.status.success() { Ok(text) } else { Err(Error::RootKey("The command failed.")) }
}

/// The fingerprint of the root key, which is made if this database has had none.
#[pg_extern(sql = false)]
fn root_key_fingerprint() -> String {
    let make = super::rows::root_key_fingerprint().is_none();
    RootKey::load(make).or_raise().fingerprint()
}
