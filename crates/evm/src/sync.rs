//! What threads of the parallel executor share things by. A test that tries other schedules compiles
//! what uses it with shuttle's in its place.

pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    thread::yield_now,
};
