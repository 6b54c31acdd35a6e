//! Owns how results look: the same Markdown on the screen and in `RESULTS.md`. It never computes one.

use std::fmt::Write;
use std::process::Command;
use std::time::SystemTime;

/// Results of one kind.
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    pub fn new(title: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.to_owned(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "{}", self.title);
        self.rows.push(cells.into());
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// As Markdown that reads well as text too.
    pub fn markdown(&self) -> String {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<_> = (0..self.columns.len())
            .map(|i| lines().map(|line| line[i].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |cells: &[String]| {
            let cells: Vec<_> =
                cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = format!("## {}\n\n{}", self.title, line(&self.columns));
        let rules: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
        text += &line(&rules);
        for row in &self.rows {
            text += &line(row);
        }
        for note in &self.notes {
            write!(text, "\n{note}\n").unwrap();
        }
        text
    }
}

/// What was measured, where and when.
pub fn heading(sections: &str) -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let revision = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let revision = revision.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    format!(
        "# What it costs\n\n\
         Written by `make bench RESULTS=1` ({sections}); not by hand.\n\n\
         - {}, revision {}\n\
         - {model}, {cores} cores, Linux {}, shared with the load generator and the sink (load average before: {})\n\
         - names of 66 bytes, frames of 500, mixed values; CPU is user and system time of the process by `/proc`\n",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        revision.unwrap_or_default(),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}
