//! How much one socket may send: commands a second and bytes a second.

use tokio::time::Instant;

use crate::config::Config;

/// Which of the two was too much; its name in the metric of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Messages,
    Bytes,
}

impl Excess {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
        }
    }
}

/// Two buckets that hold one second's worth each, and always a whole message.
pub(super) struct Rate {
    commands: f32,
    bytes: f32,
    at: Instant,
}

impl Rate {
    pub(super) fn new(config: &Config) -> Self {
        Self { commands: commands_held(config), bytes: bytes_held(config), at: Instant::now() }
    }

    /// Takes so many commands and bytes, or says which there are too many of.
    pub(super) fn take(&mut self, now: Instant, commands: u32, bytes: usize, config: &Config) -> Result<(), Excess> {
        let passed = now.saturating_duration_since(self.at).as_secs_f32();
        let filled = |left: f32, per_second: f32, held: f32| (left + passed * per_second).min(held);
        self.at = now;
        self.commands = filled(self.commands, config.max_commands_per_second as f32, commands_held(config));
        self.bytes = filled(self.bytes, config.max_bytes_per_second as f32, bytes_held(config));
        let (commands, bytes) = (commands as f32, bytes as f32);
        if self.commands < commands {
            return Err(Excess::Messages);
        }
        if self.bytes < bytes {
            return Err(Excess::Bytes);
        }
        self.commands -= commands;
        self.bytes -= bytes;
        Ok(())
    }
}

fn commands_held(config: &Config) -> f32 {
    config.max_commands_per_second.max(1) as f32
}

fn bytes_held(config: &Config) -> f32 {
    config.max_bytes_per_second.max(config.max_message_bytes) as f32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::layers::Texts;

    fn config(settings: &[(&str, &str)]) -> Config {
        let flags: Texts = settings.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        Config::load(&flags, &Texts::default(), None).expect("settings")
    }

    #[test]
    fn a_second_s_worth_of_commands_is_allowed_at_once_and_then_the_rate() {
        let config = config(&[("PORTCULLIS_MAX_COMMANDS_PER_SECOND", "10")]);
        let mut rate = Rate::new(&config);
        let start = Instant::now();
        let mut allowed = |after: u64| {
            let now = start + Duration::from_millis(after);
            (0..20).filter(|_| rate.take(now, 1, 0, &config).is_ok()).count()
        };
        assert_eq!((allowed(0), allowed(350), allowed(400), allowed(60_000)), (10, 3, 1, 10));
    }

    #[test]
    fn bytes_have_a_rate_of_their_own_and_one_message_always_fits() {
        let config = config(&[("PORTCULLIS_MAX_BYTES_PER_SECOND", "8KiB")]);
        let mut rate = Rate::new(&config);
        let start = Instant::now();
        assert_eq!(rate.take(start, 1, 64 << 10, &config), Ok(()));
        assert_eq!(rate.take(start, 1, 1, &config), Err(Excess::Bytes));
        assert_eq!(rate.take(start + Duration::from_secs(1), 1, 8 << 10, &config), Ok(()));
        assert_eq!(rate.take(start + Duration::from_secs(1), 1, 1 << 10, &config), Err(Excess::Bytes));
    }
}
