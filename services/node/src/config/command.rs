//! `atoll config`.

use std::path::PathBuf;

use atoll_fabric::tls::Kept;

use super::{Config, reference};
use crate::secure::{roles, unnamed};

/// What can be configured, and whether a file is right.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Say whether a configuration can be used, with the certificates that it names
    Check {
        /// TOML file
        file: PathBuf,
        /// Overrides a key of the file: --set chain.shards=4
        #[arg(long = "set", value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Print every key with its type, default and meaning, as Markdown
    Reference,
}

impl ConfigCommand {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Reference => print!("{}", reference()),
            Self::Check { file, settings } => {
                let config = Config::load(file, std::env::vars(), settings)?;
                for files in [config.tls.members()?, config.tls.public()?].into_iter().flatten() {
                    let material = Kept::open(files)?.get();
                    for identity in &material.identities {
                        println!("certificate  {identity}");
                    }
                }
                if let Some(files) = config.tls.members()? {
                    unnamed(&config, &Kept::open(files)?.get().identities)?;
                }
                for role in roles(&config) {
                    println!("stands here  {role}");
                }
                println!("{} can be used", file.display());
            }
        }
        Ok(())
    }
}
