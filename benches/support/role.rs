//! One benchmark program plays several parts, each in a process of its own: who measures, the floor, a crowd of clients.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PREFIX: &str = "role:";

/// What this process is to do.
pub enum Role {
    /// Measure.
    Measure,
    /// Play a part for whoever measures.
    Play(String, Vec<String>),
    /// Nothing: `cargo test` only wants to see that the program can be built.
    Nothing,
}

impl Role {
    /// Reads the command line.
    pub fn of_this_process() -> Self {
        let mut arguments = std::env::args().skip(1).peekable();
        if let Some(name) = arguments.next_if(|first| first.starts_with(PREFIX)) {
            return Self::Play(name[PREFIX.len()..].to_owned(), arguments.collect());
        }
        if arguments.any(|argument| argument == "--bench") { Self::Measure } else { Self::Nothing }
    }
}

/// This program in another role. Ends when it is dropped, and also when this process is gone: its input closes.
pub struct Player {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Player {
    /// Starts it.
    pub fn start(role: &str, arguments: &[String]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(program)
            .arg(format!("{PREFIX}{role}"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start this program again");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a piped output")).lines();
        Self { child, input, output }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line it writes.
    pub fn hear(&mut self) -> String {
        self.output.next().expect("the player ended before its time").expect("read from the player")
    }

    /// Writes it a line.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("an open input");
        writeln!(input, "{line}").expect("write to the player");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// For a role without anything to hear: ends this process as soon as whoever started it lets go.
pub fn end_with_input() {
    std::thread::spawn(|| {
        std::io::stdin().lines().for_each(drop);
        std::process::exit(0);
    });
}
