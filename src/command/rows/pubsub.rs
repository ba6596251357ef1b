//! Publish and subscribe.

use super::*;

const CHANNEL: &str =
    "the channel's name is routed like a key: publisher and subscriber meet at its owner";
const PUBLISHED: &str = "the channel's name is routed like a key; a script publishes at the node of its keys: give the channel their hash tag";

pub(super) static ROWS: &[CommandSpec] = &[
    stateful("PSUBSCRIBE", -2, NONE)
        .proxied(ProxyRole::Subscription(SubscriptionCommand::Psubscribe))
        .because("channels that match live on every node"),
    write("PUBLISH", 3, KEY).because(PUBLISHED),
    ask_all("PUBSUB|CHANNELS", -2, Merge::Union).allow_partial(),
    any("PUBSUB|HELP", 2),
    ask_all("PUBSUB|NUMPAT", 2, Merge::Max)
        .allow_partial()
        .because("a pattern is listened to on every node"),
    ask_all("PUBSUB|NUMSUB", -2, Merge::SumByName).allow_partial(),
    ask_all("PUBSUB|SHARDCHANNELS", -2, Merge::Union).allow_partial(),
    ask_all("PUBSUB|SHARDNUMSUB", -2, Merge::SumByName).allow_partial(),
    stateful("PUNSUBSCRIBE", -1, NONE)
        .proxied(ProxyRole::Subscription(SubscriptionCommand::Punsubscribe)),
    write("SPUBLISH", 3, KEY).because(PUBLISHED),
    stateful("SSUBSCRIBE", -2, ALL_KEYS)
        .proxied(ProxyRole::Subscription(SubscriptionCommand::Ssubscribe))
        .because(CHANNEL),
    stateful("SUBSCRIBE", -2, ALL_KEYS)
        .proxied(ProxyRole::Subscription(SubscriptionCommand::Subscribe))
        .because(CHANNEL),
    stateful("SUNSUBSCRIBE", -1, ALL_KEYS)
        .proxied(ProxyRole::Subscription(SubscriptionCommand::Sunsubscribe))
        .because(CHANNEL),
    stateful("UNSUBSCRIBE", -1, ALL_KEYS)
        .proxied(ProxyRole::Subscription(SubscriptionCommand::Unsubscribe))
        .because(CHANNEL),
];
