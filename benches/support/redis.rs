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

/// Bytes it uses, its own needs included.
pub fn memory(redis: &RedisServer) -> u64 {
    let info: redis::InfoDict = redis::cmd("INFO").arg("memory").query(&mut connect(redis)).expect("INFO");
    info.get("used_memory").expect("used_memory in INFO")
}

/// Commands it has processed so far, and bytes it has received and sent.
pub fn traffic(redis: &RedisServer) -> (u64, u64) {
    let info: redis::InfoDict = redis::cmd("INFO").arg("stats").query(&mut connect(redis)).expect("INFO");
    let number = |name: &str| info.get::<u64>(name).unwrap_or_else(|| panic!("{name} in INFO"));
    (number("total_commands_processed"), number("total_net_input_bytes") + number("total_net_output_bytes"))
}

fn connect(redis: &RedisServer) -> redis::Connection {
    let client = redis::Client::open(redis.url()).expect("a Redis URL");
    client.get_connection().expect("connect to Redis")
}
