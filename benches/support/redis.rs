//! A word with Redis, past the gateway.

use crate::common::servers::RedisServer;

/// Empties it.
pub fn flush(redis: &RedisServer) {
    redis::cmd("FLUSHALL").exec(&mut connect(redis)).expect("FLUSHALL");
}

/// How many records it holds.
pub fn records(redis: &RedisServer) -> u64 {
    redis::cmd("DBSIZE").query(&mut connect(redis)).expect("DBSIZE")
}

fn connect(redis: &RedisServer) -> redis::Connection {
    let client = redis::Client::open(redis.url()).expect("a Redis URL");
    client.get_connection().expect("connect to Redis")
}
