//! The shared memory of the extension: its layout, its locks, its beginning and its end.
//!
//! Without preloading there is none; then each backend has the same structures to itself, small,
//! and [`State::is_shared`] says so.

use std::cell::{Cell, OnceCell};
use std::ffi::CStr;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;
use rand::TryRng;
use rand::rngs::SysRng;
use uuid::Uuid;

use super::root_key::{Handle, RootKeyCommand};
use super::settings::{self, Sizes};
use crate::core::desk::{Desk, Seat};
use crate::core::memo::{Memo, TagKey};
use crate::core::scan::Progress;
use crate::core::subject::Subject;
use crate::core::table::{Locks, Memory, Shape, Shards, Slot, Value, seeded_hash};
use crate::core::usage::{KeyRef, RefusalKind, Refusals, Usage};
use crate::core::vacant::AtomicU32 as Link;

/// Sets of counters, so that backends do not fight over a cache line.
const STRIPES: usize = 16;
/// Better hashes that can wait for the worker.
const UPGRADES: usize = 1024;
/// Texts of legacy keys whose row is remembered.
const PLACES: usize = 16_384;
/// Searches for keys of texts that can be gone on with.
const SCANS: usize = 4096;
/// The first of the locks, of what the worker says of itself, and the one of the desk.
const WORKER_LOCK: usize = 0;
const DESK_LOCK: usize = 1;
const NAME: &CStr = c"api_key";

/// What is counted, for the view `api_key.stats`.
#[derive(Clone, Copy)]
pub enum Counter {
    /// Secrets found in the memo.
    MemoHits,
    /// Secrets not found there.
    MemoMisses,
    /// argon2 runs to check a secret.
    HashesRun,
    /// Checks that had to wait for another to end.
    HashesWaited,
    /// Checks given up because there was no room.
    HashesRefused,
    /// Checks refused because of the key's failure budget.
    Throttled,
    /// Searches among legacy keys that went on from an earlier call.
    ScansResumed,
    /// Those that a call left to a later one.
    ScansPaused,
    /// Use counts for which there was no room.
    UsageDropped,
    /// Requests refused by a rate limit.
    RateLimited,
    /// Those of them that were refused for want of room to count them.
    RateLimitsFull,
}

/// How many kinds of counters there are.
const COUNTERS: usize = 11;

#[repr(C, align(128))]
struct Stripe([AtomicU64; COUNTERS]);

/// The text of a legacy key, in a database.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The database's oid.
    pub database: u32,
    /// The handle of the text.
    pub handle: Handle,
}

impl Place {
    /// A text in the current database.
    pub fn here(handle: Handle) -> Self {
        // SAFETY: set since the backend has connected.
        Self { database: unsafe { pg_sys::MyDatabaseId }.to_u32(), handle }
    }
}

/// A hash that is to replace a weaker one.
#[derive(Clone, Copy)]
pub struct Upgrade {
    /// SHA-256 of the hash that it replaces: a rotation in between wins.
    pub replaces: [u8; 32],
    /// The handle by which a legacy key is to be found from then on.
    pub handle: Option<Handle>,
    /// The PHC string, its length before it.
    pub hash: (usize, [u8; 192]),
}

impl Value for Upgrade {}

/// In `WorkerState::failing`: it was none's in particular.
pub const EVERY_DATABASE: u32 = u32::MAX;

/// What the worker says of itself.
#[repr(C)]
pub struct WorkerState {
    /// The launcher's latch; null when it does not run.
    pub latch: AtomicPtr<pg_sys::Latch>,
    /// Somebody found little room left since the launcher last looked.
    pub needs_room: AtomicBool,
    /// Flushes asked for, and those of them that are done.
    pub requested: AtomicU64,
    /// See `requested`.
    pub done: AtomicU64,
    /// Databases flushed, ever.
    pub flushes: AtomicU64,
    /// The last flush, in microseconds since 2000; 0 for never.
    pub last_flush_at: AtomicI64,
    /// The database whose worker ended last, and how: see `worker`.
    pub outcome: AtomicU32,
    /// Databases that the last round could not flush, or `EVERY_DATABASE`; 0 for none.
    pub failing: [AtomicU32; 16],
    /// The last error, in microseconds since 2000; 0 for none.
    pub last_error_at: AtomicI64,
    /// Text of the last error, its length before it. Under the lock of the worker.
    last_error: (usize, [u8; 256]),
}

#[repr(C)]
struct Header {
    tag_key: [u8; 64],
    stripes: [Stripe; STRIPES],
    /// Those who came to the desk. Under its lock.
    tickets: u64,
    worker: WorkerState,
    root_key_command: RootKeyCommand,
    sizes: Sizes,
    /// Of the hashes by which tables place their keys.
    seed: u64,
}

/// Declares the tables: a line each, of name, key, value and number of entries.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $key:ty => $value:ty, $entries:expr;)+) => {
        /// The tables.
        pub struct Tables {
            $($(#[$doc])* pub $name: Sharded<$key, $value>,)+
        }

        impl Tables {
            /// Keeps room for all tables, in their order.
            fn reserve(sizes: &Sizes, room: &mut Room) {
                $(room.reserve::<$key, $value>(($entries as fn(&Sizes) -> usize)(sizes));)+
            }

            /// # Safety
            /// As `State::at`; `room` is as it was for `reserve`.
            unsafe fn at(header: *mut Header, room: &mut Room, locks: LockArray) -> Self {
                // SAFETY: by the caller's promise.
                unsafe {
                    let sizes = (*header).sizes;
                    Self {
                        $($name: room
                            .reserve::<$key, $value>(($entries as fn(&Sizes) -> usize)(&sizes))
                            .table(header, locks),)+
                    }
                }
            }

            /// # Safety
            /// As `initialise`; `room` is as it was for `reserve`.
            unsafe fn initialise(header: *mut Header, sizes: &Sizes, room: &mut Room) {
                // SAFETY: by the caller's promise.
                unsafe {
                    $(room
                        .reserve::<$key, $value>(($entries as fn(&Sizes) -> usize)(sizes))
                        .initialise::<$key, $value>(header);)+
                }
            }
        }
    };
}

tables! {
    /// Use counts to be written.
    usage: KeyRef => Usage, |sizes| sizes.usage_entries;
    /// Refusals to be written.
    refusals: RefusalKind => Refusals, |sizes| sizes.refusal_entries;
    /// Failure budgets: the state of a [`crate::core::gcra::Rate`] for each key.
    failures: KeyRef => i64, |sizes| sizes.failure_entries;
    /// Better hashes to be written.
    upgrades: KeyRef => Upgrade, |_| UPGRADES;
    /// Where texts of legacy keys were found.
    places: Place => Uuid, |_| PLACES;
    /// Rate limits of requests: the state of a [`crate::core::gcra::Rate`] for each limit and subject.
    limits: Subject => i64, |sizes| sizes.rate_limit_entries;
    /// Those of clients, who need no key to be many: they take no room from the others.
    client_limits: Subject => i64, |sizes| sizes.rate_limit_entries;
    /// What `check_rate_limit` counts, by whatever subjects an application has.
    check_limits: Subject => i64, |sizes| sizes.rate_limit_entries;
    /// Searches for keys of texts among legacy keys that share their prefix.
    scans: Place => Progress, |_| SCANS;
}

/// A table in shared memory.
pub type Sharded<K, V> = Shards<'static, K, V, LockArray>;

/// Locks one after another; null in a backend of its own.
#[derive(Clone, Copy)]
pub struct LockArray(*mut pg_sys::LWLockPadded);

impl LockArray {
    /// The locks from this one on.
    const fn from(self, first: usize) -> Self {
        // The array is as long as `Room` has counted. Null stays null: nobody looks there.
        Self(if self.0.is_null() { self.0 } else { self.0.wrapping_add(first) })
    }
}

impl Locks for LockArray {
    type Held = Locked;

    fn lock(&self, shard: usize) -> Locked {
        let padded = self.from(shard).0;
        // SAFETY: `Room` has counted a lock for each shard.
        Locked::new((!padded.is_null()).then(|| unsafe { &raw mut (*padded).lock }))
    }
}

/// A lock that is held, unless it is that of a backend of its own.
pub struct Locked(Option<*mut pg_sys::LWLock>);

impl Locked {
    fn new(lock: Option<*mut pg_sys::LWLock>) -> Self {
        if let Some(lock) = lock {
            // SAFETY: one of our tranche's locks.
            unsafe { pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE) };
        }
        Self(lock)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Some(lock) = self.0 {
            // SAFETY: held since `new`, for memory operations that raise no errors.
            unsafe { pg_sys::LWLockRelease(lock) }
        }
    }
}

/// How much room is kept behind the header: bytes from its beginning, and locks.
struct Room {
    bytes: usize,
    locks: usize,
}

/// Where the parts of a table are, in bytes behind the header.
struct Region {
    shape: Shape,
    vacant: usize,
    bounds: usize,
    heads: usize,
    links: usize,
    slots: usize,
    first_lock: usize,
}

impl Room {
    /// What all of it takes.
    fn total(sizes: &Sizes) -> Self {
        let (mut room, _, _) = Self::before_tables(sizes);
        Tables::reserve(sizes, &mut room);
        room
    }

    /// The header and its locks, then where the memo and the seats of the desk begin.
    fn before_tables(sizes: &Sizes) -> (Self, usize, usize) {
        let mut room = Self { bytes: size_of::<Header>(), locks: DESK_LOCK + 1 };
        let memo = room.array::<u64>(Memo::words(sizes.memo_entries));
        let seats = room.array::<Seat>(sizes.backends);
        (room, memo, seats)
    }

    fn array<T>(&mut self, length: usize) -> usize {
        let begin = self.bytes.next_multiple_of(128);
        self.bytes = begin + length * size_of::<T>();
        begin
    }

    fn reserve<K, V>(&mut self, entries: usize) -> Region {
        let shape = Shape::new(entries);
        let first_lock = self.locks;
        self.locks += shape.shards;
        Region {
            shape,
            vacant: self.array::<[AtomicU64; 2]>(1),
            bounds: self.array::<AtomicI64>(shape.shards),
            heads: self.array::<Cell<u32>>(shape.shards * shape.chains),
            links: self.array::<Link>(shape.places),
            slots: self.array::<Cell<Slot<K, V>>>(shape.places),
            first_lock,
        }
    }
}

impl Region {
    /// # Safety
    /// As `Region::table`; the memory is zeroed, and nobody else uses it.
    unsafe fn initialise<K, V>(&self, header: *mut Header)
    where
        K: Copy + Eq + Hash + 'static,
        V: Value + 'static,
    {
        // SAFETY: by the caller's promise.
        unsafe {
            let slots = header.cast::<u8>().add(self.slots).cast::<Slot<K, V>>();
            for place in 0..self.shape.places {
                slots.add(place).write(None);
            }
            self.table::<K, V>(header, LockArray(std::ptr::null_mut())).clear();
        }
    }

    /// # Safety
    /// As `State::at`, with room of this region behind the header.
    unsafe fn table<K, V>(&self, header: *mut Header, locks: LockArray) -> Sharded<K, V>
    where
        K: Copy + Eq + Hash + 'static,
        V: Value + 'static,
    {
        let Shape { places, shards, chains } = self.shape;
        // SAFETY: by the caller's promise. What is no atomic is worked on under the shard's lock.
        unsafe {
            let base = header.cast::<u8>();
            let memory = Memory {
                vacant: &*base.add(self.vacant).cast(),
                bounds: std::slice::from_raw_parts(base.add(self.bounds).cast(), shards),
                heads: std::slice::from_raw_parts(base.add(self.heads).cast(), shards * chains),
                links: std::slice::from_raw_parts(base.add(self.links).cast(), places),
                slots: std::slice::from_raw_parts(base.add(self.slots).cast(), places),
            };
            Shards::new(memory, (*header).seed, locks.from(self.first_lock))
        }
    }
}
/// All of it, as a process sees it.
pub struct State {
    header: *mut Header,
    /// Known secrets.
    pub memo: Memo<'static>,
    /// The key of the memo.
    pub tag_key: TagKey,
    tables: Tables,
    locks: LockArray,
    seats: *mut Seat,
}

impl Deref for State {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
    }
}

thread_local! {
    static STATE: OnceCell<State> = const { OnceCell::new() };
}

/// Where the segment is; null without preloading. Children inherit it from the postmaster.
static SEGMENT: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());

/// The state of this process.
pub fn with<R>(work: impl FnOnce(&State) -> R) -> R {
    STATE.with(|state| work(state.get_or_init(State::attach)))
}

/// Whether the library was preloaded.
pub fn is_preloaded() -> bool {
    !SEGMENT.load(Ordering::Relaxed).is_null()
}

impl State {
    fn attach() -> Self {
        let segment = SEGMENT.load(Ordering::Relaxed);
        if segment.is_null() {
            let sizes = Sizes::of_a_backend();
            let layout = std::alloc::Layout::from_size_align(Room::total(&sizes).bytes, 128)
                .unwrap_or_else(|_| std::alloc::Layout::new::<Header>());
            // SAFETY: the size is not zero; the memory is never freed, as `&'static` says.
            let memory = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Header>();
            if memory.is_null() {
                super::error::Error::Memory.raise();
            }
            // SAFETY: zeroed memory of the size that `initialise` asks for.
            unsafe {
                initialise(memory, sizes);
                Self::at(memory, std::ptr::null_mut())
            }
        } else {
            // SAFETY: initialised by the postmaster, with the tranche of the same name.
            unsafe { Self::at(segment, pg_sys::GetNamedLWLockTranche(NAME.as_ptr())) }
        }
    }

    /// # Safety
    /// `header` is the beginning of a segment of `Room::total` that stays; `locks` are as many
    /// locks, or null for a segment that no other process has.
    unsafe fn at(header: *mut Header, locks: *mut pg_sys::LWLockPadded) -> Self {
        // SAFETY: by the caller's promise.
        unsafe {
            let sizes = &(*header).sizes;
            let locks = LockArray(locks);
            let (mut room, memo, seats) = Room::before_tables(sizes);
            let words = Memo::words(sizes.memo_entries);
            let base = header.cast::<u8>();
            Self {
                header,
                memo: Memo::new(std::slice::from_raw_parts(base.add(memo).cast(), words)),
                tag_key: TagKey::new(&(*header).tag_key),
                tables: Tables::at(header, &mut room, locks),
                locks,
                seats: base.add(seats).cast(),
            }
        }
    }

    /// Whether other backends see it too.
    pub const fn is_shared(&self) -> bool {
        !self.locks.0.is_null()
    }

    /// Counts.
    pub fn count(&self, counter: Counter) {
        // SAFETY: set since the process began. Asking the operating system takes a system call.
        let process = unsafe { pg_sys::MyProcPid }.unsigned_abs();
        let stripe = usize::try_from(process).unwrap_or(0) % STRIPES;
        self.header().stripes[stripe].0[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn counted(&self, counter: Counter) -> u64 {
        let stripes = self.header().stripes.iter();
        stripes.map(|stripe| stripe.0[counter as usize].load(Ordering::Relaxed)).sum()
    }

    /// A hash that nobody outside can foresee.
    pub fn hash<K: Hash>(&self, key: &K) -> u64 {
        seeded_hash(self.header().seed, key)
    }

    /// Works on the desk where processes queue up to hash.
    pub fn desk<R>(&self, work: impl FnOnce(&mut Desk<'_>) -> R) -> R {
        let _locked = self.locks.lock(DESK_LOCK);
        // SAFETY: `initialise` made this many seats; the lock makes the references exclusive among
        // processes, and no `work` comes back here.
        unsafe {
            let seats = std::slice::from_raw_parts_mut(self.seats, (*self.header).sizes.backends);
            work(&mut Desk::new(seats, &mut (*self.header).tickets))
        }
    }

    /// What the worker says of itself.
    pub fn worker(&self) -> &WorkerState {
        &self.header().worker
    }

    /// How the command of the root key fares.
    pub fn root_key_command(&self) -> &RootKeyCommand {
        &self.header().root_key_command
    }

    /// Notes that the round could not flush a database.
    pub fn fails(&self, database: u32) {
        let failing = &self.worker().failing;
        let free = failing.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        match (free, failing.last()) {
            (Some(place), _) => place.store(database, Ordering::Relaxed),
            (None, Some(last)) => last.store(EVERY_DATABASE, Ordering::Relaxed),
            (None, None) => {}
        }
    }

    /// Whether the last round could not flush a database.
    pub fn failed(&self, database: u32) -> bool {
        self.worker().failing.iter().any(|place| {
            let failing = place.load(Ordering::Relaxed);
            failing == database || failing == EVERY_DATABASE
        })
    }

    /// Keeps the text of an error, cut to what there is room for.
    pub fn keep_error(&self, text: &str, now: i64) {
        {
            let _locked = self.locks.lock(WORKER_LOCK);
            // SAFETY: the lock is held.
            let kept = unsafe { &mut (*self.header).worker.last_error };
            let length = text.floor_char_boundary(kept.1.len());
            kept.0 = length;
            kept.1[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        self.worker().last_error_at.store(now, Ordering::Relaxed);
    }

    /// The text of the last error.
    pub fn last_error(&self) -> Option<String> {
        let _locked = self.locks.lock(WORKER_LOCK);
        // SAFETY: the lock is held.
        let kept = unsafe { &(*self.header).worker.last_error };
        (kept.0 > 0).then(|| String::from_utf8_lossy(&kept.1[..kept.0]).into_owned())
    }

    fn header(&self) -> &Header {
        // SAFETY: the header stays; what is written to is atomic, or reached by raw pointers
        // under a lock.
        unsafe { &*self.header }
    }
}
/// # Safety
/// `header` is zeroed memory of `Room::total(&sizes)`, aligned to 128.
unsafe fn initialise(header: *mut Header, sizes: Sizes) {
    // SAFETY: by the caller's promise. Zero is a good beginning for all of the header (atomics,
    // counts, null pointers) but for what is written here.
    unsafe {
        let mut random = zeroize::Zeroizing::new([0; 72]);
        if SysRng.try_fill_bytes(&mut *random).is_err() {
            error!("the operating system gives no random numbers");
        }
        (*header).tag_key.copy_from_slice(&random[..64]);
        (*header).seed = u64::from_le_bytes(*random.last_chunk().unwrap_or(&[0; 8]));
        (*header).sizes = sizes;
        let (mut room, _, seats) = Room::before_tables(&sizes);
        let seats = header.cast::<u8>().add(seats).cast::<Seat>();
        for at in 0..sizes.backends {
            seats.add(at).write(Seat::Empty);
        }
        Tables::initialise(header, &sizes, &mut room);
    }
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the segment; called while the library is preloaded.
pub fn register() {
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
        let room = Room::total(&settings::sizes());
        pg_sys::RequestAddinShmemSpace(room.bytes + 128);
        let locks = i32::try_from(room.locks).unwrap_or(i32::MAX);
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), locks);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: called by PostgreSQL when the segments are made, at the start and again after a
    // crash.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let sizes = settings::sizes();
        let room = Room::total(&sizes);
        let size = room.bytes + 128;
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), size, &mut found).cast::<u8>();
        let header = memory.add(memory.align_offset(128)).cast::<Header>();
        if !found {
            std::ptr::write_bytes(memory, 0, size);
            initialise(header, sizes);
        }
        SEGMENT.store(header, Ordering::Relaxed);
        if !found && !pg_sys::IsUnderPostmaster {
            log!(
                "api_key: {} kB of shared memory: {} memo, {} usage, {} failure, {} refusal and {} rate limit entries",
                (size + room.locks * size_of::<pg_sys::LWLockPadded>()) / 1024,
                sizes.memo_entries,
                sizes.usage_entries,
                sizes.failure_entries,
                sizes.refusal_entries,
                sizes.rate_limit_entries
            );
            // Before any child runs, so without the locks.
            super::pending::load(&State::at(header, std::ptr::null_mut()));
            pg_sys::on_shmem_exit(Some(exit), pg_sys::Datum::from(0));
        }
    }
}

/// In the postmaster, after the last child. `code` is 0 for a clean shutdown.
#[pg_guard]
unsafe extern "C-unwind" fn exit(code: i32, _argument: pg_sys::Datum) {
    let header = SEGMENT.load(Ordering::Relaxed);
    // SAFETY: the segment is there until the hooks of this kind have run, and no child runs.
    unsafe {
        if code == 0 && !header.is_null() && !pg_sys::IsUnderPostmaster {
            let state = State::at(header, std::ptr::null_mut());
            super::pending::save(&state);
        }
    }
}
