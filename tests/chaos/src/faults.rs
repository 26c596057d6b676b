//! What is done to a cluster, and how often it was.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::Context as _;
use atoll_tests::{
    audit::holder,
    processes::{ADMIN, CLIENT, GATEWAY, Plan, Processes, free_port},
};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::{
    proxy::{Link, Mode, Way},
    veth::Veth,
    volume::Volume,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// kill -9 every few hundred milliseconds
    Kill,
    /// SIGSTOP for up to half a minute, then SIGCONT
    Stop,
    /// A volume without room
    Disk,
    /// Links that delay, cut, hold back or swallow
    Net,
    /// Networks of their own: unplugged, or deaf to one another. Links are not proxied then
    Veth,
}

/// How long things last, at the most.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub episode: Duration,
    pub stop: Duration,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub kills: BTreeMap<String, u64>,
    pub stops: u64,
    pub longest_stop: Duration,
    /// Links, by what was done to them.
    pub links: BTreeMap<&'static str, u64>,
    pub unplugged: u64,
    pub deaf: u64,
    pub filled: u64,
    /// Processes that a full disk has ended.
    pub ended_by_full_disk: u64,
    /// What could not be done here, and why.
    pub skipped: Vec<String>,
}

impl Tally {
    pub fn killed(&self) -> u64 {
        self.kills.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "killed (-9)      {} {:?}", self.killed(), self.kills)?;
        writeln!(f, "stopped          {}, the longest {:?}", self.stops, self.longest_stop)?;
        writeln!(f, "links            {:?}", self.links)?;
        writeln!(f, "unplugged        {}, deaf to one another {}", self.unplugged, self.deaf)?;
        write!(f, "volumes filled   {}", self.filled)?;
        write!(f, ", which has ended {} processes", self.ended_by_full_disk)?;
        for skipped in &self.skipped {
            write!(f, "\nskipped: {skipped}")?;
        }
        Ok(())
    }
}

/// What faults are made with.
pub struct Tools {
    links: BTreeMap<(String, String), Link>,
    volumes: BTreeMap<String, Volume>,
    veth: Option<Veth>,
    /// Those that can be done here.
    pub faults: Vec<Fault>,
    pub tally: Tally,
}

/// Size of a volume that is filled up, and how much of it has to be free for changes to be taken.
const VOLUME_MIB: u32 = 160;
const MIN_FREE: u64 = 16 << 20;

impl Tools {
    /// Prepares a plan for these faults. What cannot be done here is left out, and told.
    pub async fn new(plan: &mut Plan, wanted: &[Fault]) -> anyhow::Result<Self> {
        let mut tools = Self {
            links: BTreeMap::new(),
            volumes: BTreeMap::new(),
            veth: None,
            faults: wanted.to_vec(),
            tally: Tally::default(),
        };
        plan.storage.min_free_bytes = MIN_FREE;
        if wanted.contains(&Fault::Disk)
            && let Err(error) = tools.volumes(plan)
        {
            tools.skip(Fault::Disk, &error);
        }
        if wanted.contains(&Fault::Veth)
            && let Err(error) = tools.namespaces(plan)
        {
            tools.skip(Fault::Veth, &error);
        }
        if wanted.contains(&Fault::Net) {
            match tools.veth {
                Some(_) => tools.skip(Fault::Net, &anyhow::anyhow!("not together with veth")),
                None => tools.proxies(plan).await?,
            }
        }
        Ok(tools)
    }

    fn skip(&mut self, fault: Fault, error: &anyhow::Error) {
        self.faults.retain(|other| *other != fault);
        self.tally.skipped.push(format!("{fault:?}: {error:#}"));
    }

    /// A volume for a shard in one process, and for the state of the split one.
    fn volumes(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        for name in [1, atoll_tests::processes::SPLIT].map(holder) {
            let volume = Volume::mount(VOLUME_MIB)?;
            plan.data.insert(name.clone(), volume.data());
            self.volumes.insert(name, volume);
        }
        Ok(())
    }

    fn namespaces(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        let veth = Veth::new(&Plan::names())?;
        for name in Plan::names() {
            plan.namespaces.insert(name.clone(), veth.namespace(&name));
            plan.listen.insert(name.clone(), veth.listen(&name, 7_000)?);
        }
        plan.listen.insert(ADMIN.to_owned(), veth.listen(GATEWAY, 7_001)?);
        self.veth = Some(veth);
        Ok(())
    }

    async fn proxies(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        for from in Plan::names().into_iter().chain([CLIENT.to_owned()]) {
            let served = |to: &String| *to != from && (from != CLIENT || to == GATEWAY);
            for to in Plan::names().into_iter().filter(served) {
                let link = Link::open(free_port()?, plan.listen[&to]).await?;
                plan.detours.insert((from.clone(), to.clone()), link.listen);
                self.links.insert((from.clone(), to), link);
            }
        }
        Ok(())
    }

    /// One episode. What it has done is undone by [`Tools::heal`].
    pub async fn inflict(
        &mut self,
        fault: Fault,
        cluster: &mut Processes,
        rng: &mut StdRng,
        lengths: &Lengths,
    ) -> anyhow::Result<()> {
        let half = lengths.episode / 2;
        let length = between(rng, half, lengths.episode);
        match fault {
            Fault::Kill => self.storm(cluster, rng, lengths.episode).await,
            Fault::Stop => self.stop(cluster, rng, lengths.stop).await,
            Fault::Disk => self.fill(cluster, rng, length).await,
            Fault::Net => self.spoil(cluster, rng, length).await,
            Fault::Veth => self.unplug(cluster, rng, length).await,
        }
    }

    /// Processes die and are started again, some of them at once, some later.
    async fn storm(
        &mut self,
        cluster: &mut Processes,
        rng: &mut StdRng,
        length: Duration,
    ) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + length;
        let mut down: Vec<String> = Vec::new();
        while tokio::time::Instant::now() < until {
            let running: Vec<_> =
                Plan::names().into_iter().filter(|name| !down.contains(name)).collect();
            if let Some(victim) = running.choose(rng) {
                cluster.kill(std::slice::from_ref(victim))?;
                *self.tally.kills.entry(victim.clone()).or_default() += 1;
                match rng.random_bool(0.7) {
                    true => cluster.launch_one(victim)?,
                    false => down.push(victim.clone()),
                }
            }
            let pause = rng.random_range(100..=600);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if rng.random_bool(0.5)
                && let Some(name) = down.pop()
            {
                cluster.launch_one(&name)?;
            }
        }
        down.iter().try_for_each(|name| cluster.launch_one(name))
    }

    /// Lets something last. Sometimes a process is killed and started again meanwhile.
    async fn last(
        &mut self,
        cluster: &mut Processes,
        rng: &mut StdRng,
        length: Duration,
        spare: Option<&str>,
    ) -> anyhow::Result<()> {
        tokio::time::sleep(length / 2).await;
        if self.faults.contains(&Fault::Kill) && rng.random_bool(0.4) {
            let names: Vec<_> =
                Plan::names().into_iter().filter(|name| Some(name.as_str()) != spare).collect();
            let victim = names.choose(rng).context("no processes")?;
            cluster.kill(std::slice::from_ref(victim))?;
            *self.tally.kills.entry(victim.clone()).or_default() += 1;
            cluster.launch_one(victim)?;
        }
        tokio::time::sleep(length / 2).await;
        Ok(())
    }

    async fn stop(
        &mut self,
        cluster: &mut Processes,
        rng: &mut StdRng,
        longest: Duration,
    ) -> anyhow::Result<()> {
        let names = Plan::names();
        let name = names.choose(rng).context("no processes")?;
        // The first one for as long as may be.
        let length = match self.tally.stops {
            0 => longest,
            _ => between(rng, longest / 30, longest),
        };
        cluster.process(name)?.signal("STOP")?;
        self.last(cluster, rng, length, Some(name)).await?;
        cluster.process(name)?.signal("CONT")?;
        self.tally.stops += 1;
        self.tally.longest_stop = self.tally.longest_stop.max(length);
        Ok(())
    }

    /// Fills a volume: up to what has to be free, or up to the last byte.
    async fn fill(
        &mut self,
        cluster: &mut Processes,
        rng: &mut StdRng,
        length: Duration,
    ) -> anyhow::Result<()> {
        let names: Vec<_> = self.volumes.keys().cloned().collect();
        let name = names.choose(rng).context("no volumes")?;
        let leave = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..MIN_FREE) };
        self.volumes[name].fill(leave)?;
        self.tally.filled += 1;
        // One that has found no room to start has ended by itself: it cannot be killed.
        let name = name.clone();
        self.last(cluster, rng, length, Some(&name)).await
    }

    /// Makes the links of one process bad, or some links.
    async fn spoil(
        &mut self,
        cluster: &mut Processes,
        rng: &mut StdRng,
        length: Duration,
    ) -> anyhow::Result<()> {
        let pairs: Vec<_> = self.links.keys().cloned().collect();
        let chosen: Vec<_> = if rng.random_bool(0.5) {
            let names = Plan::names();
            let name = names.choose(rng).context("no processes")?;
            let touches = |pair: &&(String, String)| pair.0 == *name || pair.1 == *name;
            pairs.iter().filter(touches).collect()
        } else {
            let count = rng.random_range(1..=pairs.len() / 3);
            pairs.choose_multiple(rng, count).collect()
        };
        let way = *[Way::There, Way::Back, Way::Both].choose(rng).context("no ways")?;
        let delay = Duration::from_millis(rng.random_range(20..400));
        let modes = [
            ("delayed", Mode::Delay(delay)),
            ("cut", Mode::Cut),
            ("held", Mode::Hold(way)),
            ("swallowed", Mode::Swallow(way)),
        ];
        let (name, mode) = *modes.choose(rng).context("no modes")?;
        for pair in &chosen {
            self.links[*pair].set(mode);
        }
        *self.tally.links.entry(name).or_default() += chosen.len() as u64;
        if way != Way::Both && matches!(mode, Mode::Hold(_) | Mode::Swallow(_)) {
            *self.tally.links.entry("of which one way only").or_default() += chosen.len() as u64;
        }
        self.last(cluster, rng, length, None).await
    }

    async fn unplug(
        &mut self,
        cluster: &mut Processes,
        rng: &mut StdRng,
        length: Duration,
    ) -> anyhow::Result<()> {
        let names = Plan::names();
        let pair: Vec<_> = names.choose_multiple(rng, 2).cloned().collect();
        let (one, other) = (&pair[0], &pair[1]);
        let alone = rng.random_bool(0.6);
        self.set_network(alone, one, other, true)?;
        self.last(cluster, rng, length, None).await?;
        self.set_network(alone, one, other, false)?;
        *(if alone { &mut self.tally.unplugged } else { &mut self.tally.deaf }) += 1;
        Ok(())
    }

    /// Takes one process off the network, or makes another one deaf to it; or puts that right.
    fn set_network(&self, alone: bool, one: &str, other: &str, away: bool) -> anyhow::Result<()> {
        let veth = self.veth.as_ref().context("no networks")?;
        match alone {
            true => veth.unplug(one, away),
            false => veth.one_way(one, other, away),
        }
    }

    /// Everything is as it should be again, apart from processes that have ended.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.links.values().for_each(|link| link.set(Mode::Pass));
        self.volumes.values().try_for_each(Volume::free)
    }
}

fn between(rng: &mut StdRng, low: Duration, high: Duration) -> Duration {
    Duration::from_millis(rng.random_range(low.as_millis() as u64..=high.as_millis() as u64))
}
