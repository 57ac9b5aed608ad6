//! Progress lines and colours. Progress goes to standard error, results go to standard output.

use std::{
    collections::BTreeSet,
    io::{IsTerminal, stderr},
    sync::Mutex,
};

/// One progress line: a verb and what it is done to, in the manner of cargo.
pub fn step(verb: &str, what: &str) {
    eprintln!("{} {what}", paint("1;32", &format!("{verb:>12}")));
}

/// Something the user should know that is no error.
pub fn note(what: &str) {
    eprintln!("{} {what}", paint("1;33", "        note"));
}

/// [`note`], but not the same words twice.
pub fn note_once(what: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(|e| e.into_inner()).insert(what.to_string()) {
        note(what);
    }
}

/// The one line that ends a failed command.
pub fn error(what: &str) {
    eprintln!("{} {what}", paint("1;31", "error:"));
}

/// `text` in the given terminal colour if standard error is a terminal that likes colours.
pub fn paint(colour: &str, text: &str) -> String {
    if stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}
