//! Explores the catalogue and prints what there is: `explore [start of a name] [more blocks]
//! [seconds for each]`.

use std::time::Duration;

use atoll_model::{
    catalogue::catalogue,
    report::{Search, explore},
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.first().map_or("", String::as_str);
    let number = |at: usize| arguments.get(at).and_then(|n| n.parse().ok());
    let (more, seconds) = (number(1).unwrap_or(0), number(2).unwrap_or(600));
    for entry in catalogue().iter().filter(|entry| entry.name.starts_with(only)) {
        let report = explore(entry.model(more), Search::Depth, 2, Duration::from_secs(seconds));
        println!("{}\n  {report}", entry.name);
    }
}
