//! An experiment: the commands of many threads go to a node in one write, over one connection.
//!
//! A thread that finds nobody at work on a node sends what has gathered, reads all answers, hands them out, and passes the
//! work on to the first thread that has come meanwhile. The others sleep until their answer is there.

use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};

use redis::{Connection, Value, from_redis_value};
use redis_sharding::ShardedClient;

use super::data::VALUE;
use super::fleet::{client, connect};

pub struct Joined {
    placement: ShardedClient,
    nodes: Vec<Node>,
}

struct Node {
    queue: Mutex<Queue>,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Queue {
    requests: Vec<u8>,
    places: Vec<Arc<Place>>,
    /// Somebody sends, or has been told to.
    busy: bool,
}

/// Where a thread waits.
struct Place {
    thread: Thread,
    news: Mutex<Option<News>>,
}

enum News {
    Answer(Value),
    YourTurn,
}

impl Joined {
    pub fn connect(urls: Vec<String>) -> Self {
        let nodes = urls.iter().map(|url| Node {
            queue: Mutex::default(),
            connection: Mutex::new(connect(url)),
        });
        Self {
            nodes: nodes.collect(),
            placement: client(urls),
        }
    }

    pub fn get(&self, key: &str) {
        let owner = self.placement.topology().locate(key.as_bytes());
        let node = &self.nodes[owner.expect("every key has an owner").get()];
        let request = redis::cmd("GET").arg(key).get_packed_command();
        let value: Vec<u8> = from_redis_value(node.call(&request)).expect("a string");
        assert_eq!(value.len(), VALUE.len());
    }
}

impl Node {
    fn call(&self, request: &[u8]) -> Value {
        let place = Arc::new(Place {
            thread: thread::current(),
            news: Mutex::default(),
        });
        let mut queue = self.queue.lock().unwrap();
        queue.requests.extend_from_slice(request);
        queue.places.push(Arc::clone(&place));
        let busy = std::mem::replace(&mut queue.busy, true);
        drop(queue);
        if !busy {
            return self.serve(&place);
        }
        loop {
            thread::park();
            match place.news.lock().unwrap().take() {
                Some(News::Answer(value)) => return value,
                Some(News::YourTurn) => return self.serve(&place),
                None => {}
            }
        }
    }

    /// Sends all that has gathered, one's own request included; gives the answer to it.
    fn serve(&self, own: &Arc<Place>) -> Value {
        let mut queue = self.queue.lock().unwrap();
        let (requests, places) = (
            std::mem::take(&mut queue.requests),
            std::mem::take(&mut queue.places),
        );
        drop(queue);
        let mut connection = self.connection.lock().unwrap();
        connection
            .send_packed_command(&requests)
            .expect("the server listens");
        let mut answer = Value::Nil;
        for place in places {
            let value = connection.recv_response().expect("the server answers");
            match Arc::ptr_eq(&place, own) {
                true => answer = value,
                false => place.tell(News::Answer(value)),
            }
        }
        drop(connection);
        let mut queue = self.queue.lock().unwrap();
        match queue.places.first() {
            Some(next) => next.tell(News::YourTurn),
            None => queue.busy = false,
        }
        answer
    }
}

impl Place {
    fn tell(&self, news: News) {
        *self.news.lock().unwrap() = Some(news);
        self.thread.unpark();
    }
}
