//! A network of its own for each process: namespaces joined by a bridge, which needs root and `ip`.

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use anyhow::{Context as _, ensure};

/// The network of the bridge: for benchmarks between networks (RFC 2544), so nobody else's.
const NET: &str = "198.18.77";
/// A neighbour that nobody is.
const NOBODY: &str = "02:00:00:00:00:01";

pub struct Veth {
    bridge: String,
    /// Numbers of the processes, from 2.
    numbers: BTreeMap<String, u8>,
}

fn ip(line: &str) -> anyhow::Result<()> {
    let ran = Command::new("ip").args(line.split(' ')).output().context("cannot run ip")?;
    ensure!(ran.status.success(), "ip {line}: {}", String::from_utf8_lossy(&ran.stderr).trim());
    Ok(())
}

impl Veth {
    /// Makes a namespace for each of these.
    pub fn new(names: &[String]) -> anyhow::Result<Self> {
        let bridge = format!("atc{}", std::process::id() % 100_000);
        let numbers = names.iter().cloned().zip(2..).collect();
        let veth = Self { bridge, numbers };
        let bridge = &veth.bridge;
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("address add {NET}.1/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for number in veth.numbers.values() {
            let (space, link) = (veth.space(*number), veth.link(*number));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {link} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {link} master {bridge} up"))?;
            ip(&format!("-n {space} address add {NET}.{number}/24 dev eth0"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
        }
        Ok(veth)
    }

    fn space(&self, number: u8) -> String {
        format!("{}-{number}", self.bridge)
    }

    /// The end of a process's link that is at the bridge.
    fn link(&self, number: u8) -> String {
        format!("{}v{number}", self.bridge)
    }

    /// The namespace of a process.
    pub fn namespace(&self, name: &str) -> String {
        self.space(self.numbers[name])
    }

    /// Where a process listens.
    pub fn listen(&self, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
        Ok(format!("{NET}.{}:{port}", self.numbers[name]).parse()?)
    }

    /// Takes a process off the network, or puts it back.
    pub fn unplug(&self, name: &str, away: bool) -> anyhow::Result<()> {
        let state = if away { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.link(self.numbers[name])))
    }

    /// Nothing that `from` sends arrives at `to` any more, or it does again. The other way is as it was.
    pub fn one_way(&self, from: &str, to: &str, away: bool) -> anyhow::Result<()> {
        let (space, to) = (self.namespace(from), self.numbers[to]);
        if away {
            ip(&format!(
                "-n {space} neighbour replace {NET}.{to} lladdr {NOBODY} nud permanent dev eth0"
            ))
        } else {
            ip(&format!("-n {space} neighbour del {NET}.{to} dev eth0"))
        }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // With a namespace its link goes. What fails was not made.
        for number in self.numbers.values() {
            let _ = ip(&format!("netns del {}", self.space(*number)));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}
