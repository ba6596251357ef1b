//! Pages that are too long for the documentation of one item. They are the files of the folder `docs`.

/// The targets on docs.rs of the links between the pages. Each file ends with definitions of the same labels, which
/// lead to files; the first definition of a label counts.
macro_rules! links {
    () => {
        "[architecture]: crate::guide::architecture\n\
         [balance]: #balance\n\
         [cache]: crate::guide::cache\n\
         [changelog]: crate\n\
         [cluster]: crate::guide::cluster\n\
         [commands]: crate::guide::commands\n\
         [compatibility]: crate::guide::compatibility\n\
         [coming from redis-rs]: crate::guide::coming_from_redis_rs\n\
         [ecosystem]: crate::guide::ecosystem\n\
         [errors]: crate::guide::errors\n\
         [from one redis]: crate::guide::from_one_redis_to_four\n\
         [limits]: crate::guide::limits\n\
         [performance]: crate::guide::performance\n\
         [placements]: crate::guide::placements\n\
         [proxy]: crate::guide::proxy\n\
         [pubsub]: crate::guide::pubsub\n\
         [record]: crate::guide::record\n\
         [replicas]: crate::guide::replicas\n\
         [resharding]: crate::guide::resharding\n\
         [scripts]: crate::guide::scripts\n\
         [tls]: crate::guide::tls\n\
         [watching]: crate::guide::watching\n\n"
    };
}

macro_rules! pages {
    ($($name:ident: $file:literal,)*) => { $(
        #[doc = links!()]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    )* };
}

pages! {
    architecture: "architecture.md",
    cache: "cache.md",
    cluster: "cluster.md",
    coming_from_redis_rs: "coming-from-redis-rs.md",
    commands: "commands.md",
    compatibility: "compatibility.md",
    ecosystem: "ecosystem.md",
    errors: "errors.md",
    from_envoy: "from-envoy.md",
    from_one_redis_to_four: "from-one-redis-to-four.md",
    from_twemproxy: "from-twemproxy.md",
    limits: "limits.md",
    performance: "performance.md",
    proxy: "proxy.md",
    pubsub: "pubsub.md",
    record: "record.md",
    replicas: "replicas.md",
    resharding: "resharding.md",
    scripts: "scripts.md",
    watching: "watching.md",
}

#[doc = links!()]
#[doc = include_str!("../docs/placements.md")]
#[doc = "\n<div id=\"balance\">\n"]
#[doc = include_str!("../docs/balance.svg")]
#[doc = "\n</div>"]
pub mod placements {}

// The page has code that needs a TLS feature, so its doctests run only with one.
#[cfg(any(not(doctest), feature = "tls-native-tls", feature = "tls-rustls"))]
pages! {
    tls: "tls.md",
}
