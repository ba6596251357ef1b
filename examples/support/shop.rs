//! The data of a shop: users, their sessions, and carts whose keys share a hash tag.

use redis_sharding::redis::Pipeline;

/// Seconds after which the keys of the tour expire, whatever happens to it.
pub const KEPT_FOR: u64 = 600;

const USERS: usize = 40_000;
const SESSIONS: usize = 40_000;
const CARTS: usize = 10_000;

const NAMES: [&str; 8] = [
    "Ada", "Barbara", "Edsger", "Frances", "Grace", "Ken", "Niklaus", "Radia",
];
const CITIES: [&str; 6] = ["Bern", "Lima", "Nairobi", "Oslo", "Quito", "Tokyo"];

/// Every key starts with a prefix of this run, so that it cannot collide with another key.
pub struct Shop {
    prefix: String,
}

/// One key of the shop.
#[derive(Clone, Copy)]
pub enum Item {
    User(usize),
    Session(usize),
    CartItems(usize),
    CartTotal(usize),
}

impl Shop {
    pub fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All items, each with its own key.
    pub fn items(&self) -> Vec<Item> {
        let carts = (0..CARTS).flat_map(|cart| [Item::CartItems(cart), Item::CartTotal(cart)]);
        let users = (0..USERS).map(Item::User);
        let sessions = (0..SESSIONS).map(Item::Session);
        users.chain(sessions).chain(carts).collect()
    }

    pub fn key(&self, item: Item) -> String {
        let prefix = &self.prefix;
        match item {
            Item::User(user) => format!("{prefix}user:{user}"),
            Item::Session(session) => format!("{prefix}session:{:016x}", token(session)),
            // One tag, one node: the items of a cart and its total change together.
            Item::CartItems(cart) => format!("{prefix}{{cart:{cart}}}:items"),
            Item::CartTotal(cart) => format!("{prefix}{{cart:{cart}}}:total"),
        }
    }

    /// Adds the commands that store `item`.
    pub fn store(&self, item: Item, pipe: &mut Pipeline) {
        let key = self.key(item);
        match item {
            Item::User(user) => {
                let name = NAMES[user % NAMES.len()];
                let mail = format!("{}.{user}@shop.example", name.to_lowercase());
                let fields = [
                    ("name", name),
                    ("mail", &mail),
                    ("city", CITIES[user % CITIES.len()]),
                ];
                pipe.hset_multiple(&key, &fields).ignore();
                pipe.expire(&key, KEPT_FOR as i64).ignore();
            }
            Item::Session(session) => {
                let text = format!(r#"{{"user":{},"theme":"dark"}}"#, session % USERS);
                pipe.set_ex(&key, text, KEPT_FOR).ignore();
            }
            Item::CartItems(cart) => {
                let fields = [("tea", 1 + cart % 3), ("jam", 1 + cart % 2)];
                pipe.hset_multiple(&key, &fields).ignore();
                pipe.expire(&key, KEPT_FOR as i64).ignore();
            }
            Item::CartTotal(cart) => {
                let cents = 450 * (1 + cart % 3) + 620 * (1 + cart % 2);
                pipe.set_ex(&key, cents, KEPT_FOR).ignore();
            }
        }
    }
}

/// A token that looks random but is the same in every run: SplitMix64.
fn token(number: usize) -> u64 {
    let mut z = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
