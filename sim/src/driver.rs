//! Moves a run forward: breaks things, heals them, starts what has ended.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use rand::{Rng as _, rngs::StdRng};
use turmoil::Sim;

use crate::{
    client::{Book, Phase},
    faults::{Counts, Event, Fault},
    layout::Layout,
    machine::Host,
    trace::Trace,
};

/// How long a process that is stopped in good order may take.
const STOPPING: Duration = Duration::from_secs(8);

/// How long the last fees take to the coinbase.
const FEES: Duration = Duration::from_secs(5);

/// What moves a run forward.
pub struct Driver<'a> {
    pub sim: Sim<'a>,
    pub hosts: Vec<Arc<Host>>,
    pub layout: Layout,
    pub book: Rc<Book>,
    pub trace: Trace,
    pub random: StdRng,
    pub counts: Counts,
    pub patience: Duration,
    /// Machines that are down, and when they come up again.
    pub up_at: BTreeMap<usize, Duration>,
    /// What is broken, and when it is whole again.
    pub heal_at: Vec<(Duration, Fault)>,
    /// How many of the next answers cost whoever is behind them its power.
    pub armed: u32,
}

impl Driver<'_> {
    pub fn carry_out(&mut self, events: Vec<Event>, chaos: Duration) -> anyhow::Result<()> {
        let patience = self.sim.elapsed() + self.patience;
        if !self.until(patience, |driver| driver.book.phase.get() >= Phase::Chaos)? {
            return Ok(());
        }
        let begin = self.sim.elapsed();
        let mut events = events.into_iter().peekable();
        while self.sim.elapsed() < begin + chaos {
            if self.book.phase.get() == Phase::Done {
                return Ok(());
            }
            while let Some(event) = events.next_if(|e| begin + e.at <= self.sim.elapsed()) {
                self.break_something(event)?;
            }
            if !self.step()? {
                return Ok(());
            }
        }
        self.heal_all();
        self.book.phase.set(Phase::Healed);
        let patience = self.sim.elapsed() + self.patience;
        if !self.until(patience, |driver| driver.book.are_all_idle())? {
            return Ok(());
        }
        for host in 0..self.hosts.len() {
            let lasts = Duration::from_millis(self.random.random_range(1..1_000));
            self.down(host, lasts, true)?;
        }
        self.book.phase.set(Phase::Audit);
        let patience = self.sim.elapsed() + self.patience;
        if !self.until(patience, |driver| driver.book.phase.get() == Phase::Done)? {
            return Ok(());
        }
        self.wind_up()
    }

    /// Stops everything in good order: the beacon first, so that all shards come to its last cut.
    fn wind_up(&mut self) -> anyhow::Result<()> {
        let arrived = self.sim.elapsed() + FEES;
        self.until(arrived, |driver| driver.sim.elapsed() >= arrived)?;
        for host in self.layout.stop_order() {
            self.hosts[host].stop.store(true, Ordering::Relaxed);
            let patience = self.sim.elapsed() + STOPPING;
            let stopped = |driver: &Self| driver.hosts[host].stopped.load(Ordering::Relaxed);
            if !self.until(patience, stopped)? {
                return Ok(());
            }
            let pause = self.sim.elapsed() + Duration::from_secs(2);
            self.until(pause, |driver| driver.sim.elapsed() >= pause)?;
        }
        for host in 0..self.hosts.len() {
            self.crash(host);
        }
        Ok(())
    }

    /// Steps until something is so. Noted as a violation if it is not in time.
    fn until(&mut self, deadline: Duration, is_so: impl Fn(&Self) -> bool) -> anyhow::Result<bool> {
        while !is_so(self) {
            if self.sim.elapsed() > deadline {
                let (phase, waits) = (self.book.phase.get(), self.book.waits());
                self.book.violation(format!("progress: none in {phase:?}; {waits}"));
                return Ok(false);
            }
            if !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One millisecond. False if a process does not start, which is a violation.
    fn step(&mut self) -> anyhow::Result<bool> {
        let now = self.sim.elapsed();
        let due: Vec<usize> =
            self.up_at.iter().filter(|(_, at)| **at <= now).map(|(host, _)| *host).collect();
        for host in due {
            self.up_at.remove(&host);
            self.note("up", host);
            self.sim.bounce(self.hosts[host].name.clone());
        }
        while let Some(at) = self.heal_at.iter().position(|(at, _)| *at <= now) {
            let (_, fault) = self.heal_at.swap_remove(at);
            self.heal(fault);
        }
        self.sim.step().map_err(|error| anyhow::anyhow!("{error}"))?;
        self.cut_after_answers()?;
        for host in 0..self.hosts.len() {
            if self.hosts[host].disk.take_died() {
                self.counts.add("died-in-snapshot");
                let lasts = Duration::from_millis(self.random.random_range(100..3_000));
                let power = self.random.random_bool(0.8);
                self.down(host, lasts, power)?;
            }
            if let Some(reason) = self.hosts[host].take_ended() {
                tracing::info!(reason, host, "a process has ended by itself");
                self.counts.add("ended");
                let lasts = Duration::from_millis(self.random.random_range(100..3_000));
                self.down(host, lasts, false)?;
            }
            if let Some(error) = self.hosts[host].failed() {
                let name = &self.hosts[host].name;
                self.book.violation(format!("determinism: {name} does not start: {error}"));
                return Ok(false);
            }
            let is_wanted = self.book.phase.get() < Phase::Audit;
            if is_wanted && self.hosts[host].stopped.load(Ordering::Relaxed) {
                self.down(host, Duration::from_millis(50), false)?;
            }
        }
        Ok(true)
    }

    /// Cuts the power of whoever stands behind an answer that a client was given in this step.
    fn cut_after_answers(&mut self) -> anyhow::Result<()> {
        let Some(shard) = self.book.take_answered() else { return Ok(()) };
        if self.armed == 0 || self.book.phase.get() != Phase::Chaos {
            return Ok(());
        }
        self.armed -= 1;
        self.counts.add("power-cut-at-answer");
        let lasts = Duration::from_millis(self.random.random_range(50..2_000));
        self.down(1 + usize::from(shard), lasts, true)
    }

    fn note(&self, what: &str, host: usize) {
        self.trace.note_at(self.sim.elapsed(), &self.hosts[host].name, what, &[]);
    }

    /// Ends the process of a machine, and closes its connections.
    fn crash(&mut self, host: usize) {
        let machine = &self.hosts[host];
        machine.kill();
        machine.thaw();
        self.sim.crash(machine.name.clone());
        machine.closing.store(true, Ordering::Relaxed);
        self.sim.bounce(machine.name.clone());
        self.sim.crash(machine.name.clone());
    }

    fn down(&mut self, host: usize, lasts: Duration, power: bool) -> anyhow::Result<()> {
        let up = self.sim.elapsed() + lasts;
        self.note(if power { "loses power" } else { "is killed" }, host);
        let machine = self.hosts[host].clone();
        machine.stopped.store(false, Ordering::Relaxed);
        self.crash(host);
        if power {
            let lost = machine.disk.cut_power(&mut self.random).context("a simulated disk")?;
            if lost > 0 {
                self.counts.add("bytes-lost");
            }
        }
        self.up_at.insert(host, up);
        Ok(())
    }

    fn break_something(&mut self, event: Event) -> anyhow::Result<()> {
        let Event { lasts, fault, .. } = event;
        self.counts.add(fault.kind());
        tracing::info!(?fault, ?lasts, at = ?self.sim.elapsed(), "breaks");
        self.trace.note_at(self.sim.elapsed(), "driver", &format!("{fault:?}"), &[]);
        let name = |host: usize| self.hosts[host].name.clone();
        match fault {
            Fault::Kill { host } => return self.down(host, lasts, false),
            Fault::PowerCut { host } => return self.down(host, lasts, true),
            Fault::Stop { host } => self.hosts[host].stop.store(true, Ordering::Relaxed),
            Fault::Partition { a, b } => self.sim.partition(name(a), name(b)),
            Fault::OneWay { from, to } => self.sim.partition_oneway(name(from), name(to)),
            Fault::Delay { a, b, by_ms } => {
                self.sim.set_link_latency(name(a), name(b), Duration::from_millis(by_ms));
            }
            Fault::Hold { a, b } => self.sim.hold(name(a), name(b)),
            Fault::Slow { host, most_ms } => {
                self.hosts[host].slow_us.store(most_ms * 1_000, Ordering::Relaxed);
            }
            Fault::Freeze { host } => self.hosts[host].freeze(self.sim.elapsed() + lasts),
            Fault::Repeat { host } => self.hosts[host].repeats.store(30, Ordering::Relaxed),
            Fault::CutAtAnswer => self.armed += 1,
            Fault::DieInSnapshot { host, after } => self.hosts[host].disk.die_after(after),
            Fault::FailedSync { host } => self.hosts[host].disk.fail_sync(),
            Fault::Full { host } => self.hosts[host].disk.set_full(true),
            Fault::Clock { host, by_ms } => {
                self.hosts[host].skew_ms.store(by_ms, Ordering::Relaxed);
            }
        }
        self.heal_at.push((self.sim.elapsed() + lasts, fault));
        Ok(())
    }

    fn heal(&mut self, fault: Fault) {
        let name = |host: usize| self.hosts[host].name.clone();
        match fault {
            Fault::Partition { a, b } => self.sim.repair(name(a), name(b)),
            Fault::OneWay { from, to } => self.sim.repair_oneway(name(from), name(to)),
            Fault::Delay { a, b, .. } => {
                self.sim.set_link_latency(name(a), name(b), Duration::from_millis(5));
            }
            Fault::Hold { a, b } => self.sim.release(name(a), name(b)),
            Fault::Slow { host, .. } => self.hosts[host].slow_us.store(500, Ordering::Relaxed),
            Fault::Freeze { host } => self.hosts[host].thaw(),
            Fault::Repeat { host } => self.hosts[host].repeats.store(0, Ordering::Relaxed),
            Fault::Full { host } => self.hosts[host].disk.set_full(false),
            Fault::Clock { host, .. } => self.hosts[host].skew_ms.store(0, Ordering::Relaxed),
            Fault::Kill { .. }
            | Fault::PowerCut { .. }
            | Fault::Stop { .. }
            | Fault::CutAtAnswer
            | Fault::DieInSnapshot { .. }
            | Fault::FailedSync { .. } => {}
        }
    }

    fn heal_all(&mut self) {
        for (_, fault) in std::mem::take(&mut self.heal_at) {
            self.heal(fault);
        }
        self.armed = 0;
        self.hosts.iter().for_each(|host| host.disk.die_not());
        let now = self.sim.elapsed();
        self.up_at.values_mut().for_each(|at| *at = now.min(*at));
    }
}
