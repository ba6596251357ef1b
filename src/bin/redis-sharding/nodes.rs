//! The options for nodes, which all subcommands share: which nodes there are, where keys are placed, and how
//! nodes are connected to.

use std::env;

use clap::Args;
use redis_sharding::redis::{Cmd, RedisError, cmd};
use redis_sharding::{Builder, ShardedClient, Topology};

use crate::fleet::{Fleet, placement_option, read};
use crate::outcome::Failure;
use crate::proxy_options;

/// The environment variable with the password of the nodes.
const NODE_PASSWORD: &str = "REDIS_SHARDING_NODE_PASSWORD";

/// The placement if none is chosen, as in the library.
const DEFAULT_PLACEMENT: &str = "rendezvous/1";

#[derive(Args)]
#[command(next_help_heading = "Nodes")]
pub struct NodeArgs {
    /// The nodes and their placement, from a topology's text
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "placement", "options", "seeds"])]
    topology: Option<String>,
    /// A server of a Redis Cluster, whose servers say which nodes there are and where keys live; may be repeated
    ///
    /// SEED is host:port or a redis URL. One that can be reached is enough; several help when one is down.
    #[arg(long = "cluster", value_name = "SEED", conflicts_with_all = ["nodes", "placement", "options"])]
    seeds: Vec<String>,
    /// A node; repeated, in the order of the fleet
    ///
    /// The address is host:port, the path of a unix socket or a redis URL. A name may hold any character: it ends at
    /// the last = that an address follows. Without a name the address decides where keys are placed, and for the
    /// placements of redis-rb the URL. The weight is 1 if not given.
    #[arg(long = "node", value_name = "[NAME=]ADDRESS[,weight=W]")]
    nodes: Vec<String>,
    /// The placement of keys; `locate --list` lists them [default: rendezvous/1]
    #[arg(long, value_name = "NAME")]
    placement: Option<String>,
    /// An option of the placement; may be repeated
    #[arg(long = "option", value_name = "K=V", value_parser = placement_option)]
    options: Vec<(String, String)>,
    /// A node of a fleet with a record, which is asked for the topology; may be repeated
    ///
    /// SEED is host:port or a redis URL. One that can be reached is enough; several help when one is down.
    #[arg(
        long = "discover",
        value_name = "SEED",
        conflicts_with_all = ["topology", "seeds", "nodes", "placement", "options"]
    )]
    discover: Vec<String>,
    #[command(flatten)]
    access: AccessArgs,
}

/// How nodes are connected to.
#[derive(Args)]
#[command(next_help_heading = "Nodes")]
pub struct AccessArgs {
    /// File with the password of nodes that have none in their URL
    ///
    /// Without this option the password is taken from the environment variable REDIS_SHARDING_NODE_PASSWORD. A password in
    /// a URL on the command line can be seen by other users of the machine.
    #[arg(long, value_name = "FILE")]
    node_password_file: Option<String>,
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    #[command(flatten)]
    tls: tls::TlsArgs,
}

impl AccessArgs {
    /// The description with the password and the certificates of these options.
    pub fn apply(&self, mut builder: Builder) -> Result<Builder, Failure> {
        if let Some(password) = password(self.node_password_file.as_deref(), NODE_PASSWORD)? {
            builder = builder.password(password);
        }
        #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
        {
            builder = self.tls.apply(builder)?;
        }
        Ok(builder)
    }
}

impl NodeArgs {
    /// The nodes and their placement. The servers of a Redis Cluster are asked for them.
    pub fn fleet(&self) -> Result<Fleet, Failure> {
        let fleet = self.given()?;
        if !fleet.is_cluster() {
            return Ok(fleet);
        }
        let client = self.builder_of(&fleet)?.build()?;
        ask_for_map(&client)?;
        Ok(fleet.with_topology(&client.topology()))
    }

    /// The nodes and their placement as given. Those of a Redis Cluster are not known.
    fn given(&self) -> Result<Fleet, Failure> {
        if !self.seeds.is_empty() {
            return Fleet::cluster(&self.seeds).map_err(Failure::Usage);
        }
        if let Some(file) = &self.topology {
            return Fleet::read_topology(file).map_err(Failure::Usage);
        }
        if self.discovers() {
            let client = self.discovered()?.build()?;
            return Ok(Fleet::of(&client.topology()));
        }
        if self.nodes.is_empty() {
            let message = "no nodes: give --topology FILE, --node [NAME=]ADDRESS for every node, --cluster SEED for a \
                           server of a Redis Cluster, or --discover SEED for a node of a fleet with a record";
            return Err(Failure::Usage(message.into()));
        }
        let placement = self.placement.as_deref().unwrap_or(DEFAULT_PLACEMENT);
        Fleet::new(placement, &self.options, &self.nodes).map_err(Failure::Usage)
    }

    /// The description of a client that reaches these nodes, or those of `topology` if none are given.
    pub fn builder_or(&self, topology: &Topology) -> Result<Builder, Failure> {
        let given = [&self.seeds, &self.nodes, &self.discover];
        match self.topology.is_some() || given.iter().any(|nodes| !nodes.is_empty()) {
            true => self.builder(),
            false => self
                .access
                .apply(ShardedClient::builder().topology(topology)),
        }
    }

    /// The file that the nodes are taken from.
    pub fn topology_file(&self) -> Option<&str> {
        self.topology.as_deref()
    }

    /// True if the nodes are those of a Redis Cluster, which a client asks for them.
    pub fn is_cluster(&self) -> Result<bool, Failure> {
        Ok(self.given()?.is_cluster())
    }

    /// The description of a client of these nodes.
    pub fn builder(&self) -> Result<Builder, Failure> {
        self.builder_of(&self.given()?)
    }

    fn builder_of(&self, fleet: &Fleet) -> Result<Builder, Failure> {
        match self.discovers() {
            true => self.discovered(),
            false => self.access.apply(fleet.builder().map_err(Failure::Usage)?),
        }
    }

    /// True if the nodes come from the record of a fleet, which a client follows.
    pub fn discovers(&self) -> bool {
        !self.discover.is_empty()
    }

    /// The description of a client of the fleet that a seed belongs to.
    fn discovered(&self) -> Result<Builder, Failure> {
        let seeds = self.discover.iter().map(|seed| match seed.contains("://") {
            true => seed.clone(),
            false => format!("redis://{seed}"),
        });
        let builder = self.access.apply(ShardedClient::builder())?;
        let failed = |error: redis_sharding::Error| Failure::Failed(error.to_string());
        builder.discover(seeds).map_err(failed)
    }
}

/// Asks the servers of a Redis Cluster for its nodes and their slots, which the first request does.
pub fn ask_for_map(client: &ShardedClient) -> Result<(), Failure> {
    let asked = any_node().exec(&mut client.clone());
    asked.map_err(unknown_map)
}

/// A command that waits for the map of a Redis Cluster, and that any node answers.
pub fn any_node() -> Cmd {
    let mut command = cmd("ECHO");
    command.arg("redis-sharding");
    command
}

/// The failure of a command that has waited for the map.
pub fn unknown_map(error: RedisError) -> Failure {
    Failure::Failed(error.to_string())
}

/// A password from a file, or else from an environment variable, which must then hold one.
pub fn password(file: Option<&str>, variable: &str) -> Result<Option<String>, Failure> {
    let password = match file {
        Some(file) => read(file).and_then(|text| proxy_options::password(&text, file)),
        None => match env::var_os(variable).map(|value| value.into_string()) {
            None => return Ok(None),
            Some(Ok(text)) => proxy_options::password(&text, variable),
            Some(Err(_)) => Err(format!("{variable} is not UTF-8")),
        },
    };
    password.map(Some).map_err(Failure::Usage)
}

#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
mod tls {
    //! The options for `rediss://` nodes, with the names that redis-cli has for them.

    use std::fs;

    use clap::Args;
    use redis_sharding::Builder;
    use redis_sharding::redis::{ClientTlsConfig, TlsCertificates};

    use crate::outcome::Failure;
    use crate::shown::shown;

    #[derive(Args)]
    pub struct TlsArgs {
        /// For rediss:// nodes: the certificates of the issuers to trust, in PEM, in place of the machine's
        #[arg(long, value_name = "FILE")]
        cacert: Option<String>,
        /// For rediss:// nodes: the client's own certificate, in PEM
        #[arg(long, value_name = "FILE", requires = "key")]
        cert: Option<String>,
        /// For rediss:// nodes: the private key of --cert, in PEM
        #[arg(long, value_name = "FILE", requires = "cert")]
        key: Option<String>,
        /// For rediss:// nodes: the name that their certificates must have [default: the host]
        #[arg(long, value_name = "NAME")]
        sni: Option<String>,
    }

    impl TlsArgs {
        pub fn apply(&self, mut builder: Builder) -> Result<Builder, Failure> {
            if let Some(name) = &self.sni {
                builder = builder.tls_server_name(name);
            }
            let root_cert = self.cacert.as_deref().map(read).transpose()?;
            let client_tls = match (&self.cert, &self.key) {
                (Some(cert), Some(key)) => Some(ClientTlsConfig {
                    client_cert: read(cert)?,
                    client_key: read(key)?,
                }),
                _ => None,
            };
            if root_cert.is_some() || client_tls.is_some() {
                builder = builder.tls_certificates(TlsCertificates {
                    root_cert,
                    client_tls,
                });
            }
            Ok(builder)
        }
    }

    fn read(file: &str) -> Result<Vec<u8>, Failure> {
        let failure = |error| Failure::Usage(format!("{}: {error}", shown(file)));
        fs::read(file).map_err(failure)
    }
}
