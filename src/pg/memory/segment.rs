//! The beginning and the end of the segment, as PostgreSQL's hooks tell of them.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arena::{ALIGNMENT, Arena, Extent};
use super::lock::Locks;
use super::state::State;
use crate::pg::error::Error;
use crate::pg::settings::{self, Sizes};

const NAME: &CStr = c"api_key";

/// Work of other modules in the postmaster, while no other process runs.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// After the segment was made.
    pub start: fn(&State),
    /// At a clean shutdown.
    pub stop: fn(&State),
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

thread_local! {
    /// This process's view. Children inherit that of the postmaster.
    static STATE: Cell<Option<&'static State>> = const { Cell::new(None) };
}

/// Works on the state of this process.
pub fn with<R>(work: impl FnOnce(&'static State) -> R) -> R {
    work(STATE.get().unwrap_or_else(make_own))
}

/// Whether the library was preloaded.
pub fn is_preloaded() -> bool {
    STATE.get().is_some_and(State::is_shared)
}

fn measure(sizes: &Sizes) -> Extent {
    let mut arena = Arena::measuring();
    State::take(&mut arena, sizes);
    arena.taken()
}

/// Makes a state that this process has to itself.
#[cold]
fn make_own() -> &'static State {
    let sizes = Sizes::of_a_backend();
    let Extent { bytes, .. } = measure(&sizes);
    let Some(memory) = allocate(bytes) else { Error::Memory.raise() };
    // SAFETY: fresh memory of this size, which is never freed.
    let mut arena = unsafe { Arena::over(memory, bytes, true, Locks::NONE) };
    let state = &*Box::leak(Box::new(State::take(&mut arena, &sizes)));
    STATE.set(Some(state));
    state
}

fn allocate(bytes: usize) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc_zeroed(layout) })
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the segment; called while the library is preloaded.
pub fn register(hooks: Hooks) {
    // Only the first call counts.
    let _ = HOOKS.set(hooks);
    // SAFETY: hooks are chained in the postmaster, which has one thread.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: called by PostgreSQL when sizes may be asked for.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        let Extent { bytes, locks } = measure(&settings::sizes());
        pg_sys::RequestAddinShmemSpace(bytes + ALIGNMENT);
        let locks = i32::try_from(locks).unwrap_or(i32::MAX);
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), locks);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: called by PostgreSQL when the segments are made, at the start and again after a
    // crash. Nothing of the segment of before is used then: its processes have ended.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let sizes = settings::sizes();
        let Extent { bytes, locks } = measure(&sizes);
        let mut found = false;
        let size = bytes + ALIGNMENT;
        let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), size, &mut found).cast::<u8>();
        let Some(memory) = NonNull::new(memory.add(memory.align_offset(ALIGNMENT))) else {
            return;
        };
        let tranche = Locks::of_tranche(NAME, locks);
        let mut arena = Arena::over(memory, bytes, !found, tranche);
        STATE.set(Some(Box::leak(Box::new(State::take(&mut arena, &sizes)))));
        if !found && !pg_sys::IsUnderPostmaster {
            tell(&sizes, size + locks * size_of::<pg_sys::LWLockPadded>());
            MADE.set(Some((memory, bytes)));
            run(|hooks| hooks.start);
            pg_sys::on_shmem_exit(Some(exit), pg_sys::Datum::from(0));
        }
    }
}

thread_local! {
    /// In the postmaster, where the segment is, and its bytes.
    static MADE: Cell<Option<(NonNull<u8>, usize)>> = const { Cell::new(None) };
}

/// Says in the log what the segment takes.
fn tell(sizes: &Sizes, bytes: usize) {
    log!(
        "api_key: {} kB of shared memory: {} memo, {} usage, {} failure, {} refusal and {} rate limit entries",
        bytes / 1024,
        sizes.memo_entries,
        sizes.usage_entries,
        sizes.failure_entries,
        sizes.refusal_entries,
        sizes.rate_limit_entries
    );
}

/// Runs a hook in the postmaster while no other process runs. It takes no locks: after an immediate
/// shutdown, one may seem to be held by a process that has ended.
fn run(hook: impl FnOnce(&Hooks) -> fn(&State)) {
    if let (Some(hooks), Some((memory, bytes))) = (HOOKS.get(), MADE.get()) {
        // SAFETY: the segment that `startup` has made, from which the same is taken again.
        let mut arena = unsafe { Arena::over(memory, bytes, false, Locks::NONE) };
        hook(hooks)(&State::take(&mut arena, &settings::sizes()));
    }
}

/// In the postmaster, after the last child. `code` is 0 for a clean shutdown.
#[pg_guard]
unsafe extern "C-unwind" fn exit(code: i32, _argument: pg_sys::Datum) {
    // SAFETY: reads a flag of this process. Children run no hooks of the postmaster's.
    if code == 0 && unsafe { !pg_sys::IsUnderPostmaster } {
        run(|hooks| hooks.stop);
    }
}
