//! The options for nodes, which all subcommands share: which nodes there are, where keys are placed, and how
//! nodes are connected to.

use std::env;

use clap::Args;
use redis_sharding::Builder;

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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "placement", "options"])]
    topology: Option<String>,
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

impl NodeArgs {
    /// The nodes and their placement.
    pub fn fleet(&self) -> Result<Fleet, Failure> {
        if let Some(file) = &self.topology {
            return Fleet::read_topology(file).map_err(Failure::Usage);
        }
        if self.nodes.is_empty() {
            let message = "no nodes: give --topology FILE, or --node [NAME=]ADDRESS for every node";
            return Err(Failure::Usage(message.into()));
        }
        let placement = self.placement.as_deref().unwrap_or(DEFAULT_PLACEMENT);
        Fleet::new(placement, &self.options, &self.nodes).map_err(Failure::Usage)
    }

    /// The file that the nodes are taken from.
    pub fn topology_file(&self) -> Option<&str> {
        self.topology.as_deref()
    }

    /// The description of a client of these nodes.
    pub fn builder(&self) -> Result<Builder, Failure> {
        let mut builder = self.fleet()?.builder().map_err(Failure::Usage)?;
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
