//! Runs a shell command of the administrator's and reads what it prints: a little of it, soon, and
//! none of it once nobody waits for it any more.

use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process_group,
    set_child_subreaper, waitid, waitpgid,
};
use zeroize::Zeroizing;

use crate::pg::raw::server;

/// Why there is no output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is no shell, or no process for it.
    NotRun,
    /// The status says so.
    Failed,
    /// It printed more than is read.
    TooMuch,
    /// It had not ended in time.
    TooSlow,
}

/// How long the end of a command may go unnoticed.
const GLANCE: Duration = Duration::from_millis(5);
/// How long a process that was killed may take to end; one that waits for a disk may for ever.
const DEATH: Duration = Duration::from_secs(1);

/// The output of a command, at most `most` bytes of it, `within` a time.
///
/// An interrupt ends the wait. Then, and at the end of the command, what it has started in its
/// process group ends too.
///
/// # Errors
/// See [`Failure`].
pub fn output(command: &str, most: usize, within: Duration) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let deadline = Instant::now() + within;
    let mut running = Running::start(command).ok_or(Failure::NotRun)?;
    // Of its final size, so that no copy stays behind.
    let mut text = Zeroizing::new(vec![0; most + 1]);
    let mut length = 0;
    loop {
        // Asked before reading: what it has printed before its end is read.
        let ended = running.succeeded()?;
        let open = running.read(&mut text, &mut length);
        if length > most {
            return Err(Failure::TooMuch);
        } else if ended {
            text.truncate(length);
            return Ok(text);
        } else if Instant::now() >= deadline {
            return Err(Failure::TooSlow);
        }
        running.wait(open);
        server::check_for_interrupts();
    }
}

/// The process group of the command that runs, for the end of this process; 0 for none.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// A command that is ended, with its process group, when this is dropped.
struct Running {
    child: Child,
}

impl Running {
    fn start(command: &str) -> Option<Self> {
        // A termination of this process ends it where it waits, and drops nothing.
        server::at_exit(end_group);
        let _ = set_child_subreaper(Some(getpid()));
        let child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .ok()?;
        GROUP.store(i32::try_from(child.id()).unwrap_or(0), Ordering::Relaxed);
        let running = Self { child };
        rustix::io::ioctl_fionbio(running.child.stdout.as_ref()?, true).ok()?;
        Some(running)
    }

    /// Whether it has ended well. Its process id stays taken until it is dropped.
    fn succeeded(&self) -> Result<bool, Failure> {
        let shell = Pid::from_child(&self.child);
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(shell), how) {
            Ok(None) => Ok(false),
            Ok(Some(status)) if status.exit_status() == Some(0) => Ok(true),
            _ => Err(Failure::Failed),
        }
    }

    /// Reads what there is; whether there may come more.
    fn read(&mut self, text: &mut [u8], length: &mut usize) -> bool {
        let Some(stdout) = &mut self.child.stdout else {
            return false;
        };
        while *length < text.len() {
            match stdout.read(&mut text[*length..]) {
                Ok(0) => return false,
                Ok(count) => *length += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }

    /// Waits until there is something to read, if there may be, or for a moment.
    fn wait(&self, open: bool) {
        server::wait_for(self.child.stdout.as_ref().filter(|_| open), GLANCE);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end_group();
    }
}

/// Kills what is left of the command, and sees it gone.
///
/// Not even an orphan is left to process 1: in a container that is the postmaster, which takes the
/// end of a process that it does not know for the crash of a backend. So this process is the one
/// that orphans fall to while a command runs.
fn end_group() {
    let Some(group) = Pid::from_raw(GROUP.swap(0, Ordering::Relaxed)) else {
        return;
    };
    let _ = kill_process_group(group, Signal::KILL);
    let deadline = Instant::now() + DEATH;
    while let Ok(ended) = waitpgid(group, WaitOptions::NOHANG)
        && Instant::now() < deadline
    {
        if ended.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let _ = set_child_subreaper(None);
}
