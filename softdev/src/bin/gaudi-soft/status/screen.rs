//! Lines of styled text on whatever standard output is.

use std::io::IsTerminal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
}

/// Pieces of one line, left to right.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line(pub(super) Vec<(Style, String)>);

impl Line {
    pub(super) fn add(mut self, style: Style, text: impl Into<String>) -> Line {
        self.0.push((style, text.into()));
        self
    }
    pub(super) fn plain(self, text: impl Into<String>) -> Line {
        self.add(Style::Plain, text)
    }
    pub(super) fn strong(self, text: impl Into<String>) -> Line {
        self.add(Style::Strong, text)
    }
    pub(super) fn faint(self, text: impl Into<String>) -> Line {
        self.add(Style::Faint, text)
    }
    /// Spaces up to a column.
    pub(super) fn up_to(self, column: usize) -> Line {
        let here = self.width();
        self.plain(" ".repeat(column.saturating_sub(here).max(1)))
    }
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, t)| t.chars().count()).sum()
    }
}

/// The characters that lines are drawn with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    pub(super) branch: &'static str,
    pub(super) last: &'static str,
    pub(super) bar: &'static str,
    pub(super) both: [&'static str; 2],
    pub(super) one: [&'static str; 2],
    pub(super) out: &'static str,
    pub(super) into: &'static str,
    pub(super) dot: &'static str,
}

pub(super) const DRAWN: Signs = Signs {
    branch: "├─ ",
    last: "└─ ",
    bar: "│  ",
    both: ["◀━━", "━━▶"],
    one: ["╌╌╌", "╌╌▷"],
    out: "▲",
    into: "▼",
    dot: " · ",
};

pub(super) const TYPED: Signs = Signs {
    branch: "|- ",
    last: "`- ",
    bar: "|  ",
    both: ["<==", "==>"],
    one: ["---", "-->"],
    out: "out",
    into: "in",
    dot: ", ",
};

/// Where the picture goes.
pub(super) struct Screen {
    terminal: bool,
    colour: bool,
    drawn: bool,
}

impl Screen {
    pub(super) fn of_stdout() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_none_or(|t| t == "dumb");
        // The first that is set decides (locale(7)).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let utf8 = locale.is_some_and(|l| {
            let l = l.to_string_lossy().to_ascii_lowercase();
            l.contains("utf-8") || l.contains("utf8")
        });
        Screen {
            terminal: terminal && !dumb,
            colour: terminal && !dumb && set("NO_COLOR").is_none(),
            drawn: terminal && utf8,
        }
    }

    pub(super) fn signs(&self) -> &'static Signs {
        if self.drawn { &DRAWN } else { &TYPED }
    }

    /// One picture. `again`: in place of the one before, where that is possible.
    pub(super) fn render(&self, lines: &[Line], again: bool) -> String {
        if !self.terminal {
            let mut text: String = lines
                .iter()
                .map(|l| self.line(l, usize::MAX) + "\n")
                .collect();
            if again {
                text.push('\n');
            }
            return text;
        }
        let (width, height) = rustix::termios::tcgetwinsize(std::io::stdout())
            .map(|s| (usize::from(s.ws_col), usize::from(s.ws_row)))
            .ok()
            .filter(|(w, h)| *w > 0 && *h > 0)
            .unwrap_or((100, 25));
        if !again {
            return lines.iter().map(|l| self.line(l, width) + "\n").collect();
        }
        // Home; each line clears what is behind it; the rest of the screen goes.
        let room = height.saturating_sub(1).max(1);
        let mut text = String::from("\x1b[H");
        let cut = lines.len() > room;
        for line in lines.iter().take(if cut { room - 1 } else { room }) {
            text += &self.line(line, width);
            text += "\x1b[K\n";
        }
        if cut {
            let left = lines.len() - (room - 1);
            let more =
                Line::default().faint(format!("... {left} more lines; a higher window shows them"));
            text += &self.line(&more, width);
            text += "\x1b[K\n";
        }
        text + "\x1b[J"
    }

    fn line(&self, line: &Line, width: usize) -> String {
        let mut text = String::new();
        let mut room = width;
        let last = line.0.iter().rposition(|(_, t)| !t.trim_end().is_empty());
        for (i, (style, part)) in line.0.iter().enumerate() {
            let Some(end) = last else { break };
            if i > end {
                break;
            }
            let part = if i == end { part.trim_end() } else { part };
            let shown: String = part.chars().take(room).collect();
            room -= shown.chars().count();
            let code = match style {
                Style::Plain => None,
                Style::Strong => Some("1"),
                Style::Faint => Some("2"),
                Style::Good => Some("32"),
                Style::Warn => Some("33"),
                Style::Bad => Some("31"),
            };
            match code.filter(|_| self.colour && !shown.is_empty()) {
                Some(code) => text += &format!("\x1b[{code}m{shown}\x1b[0m"),
                None => text += &shown,
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(colour: bool) -> Screen {
        Screen {
            terminal: true,
            colour,
            drawn: true,
        }
    }

    #[test]
    fn cut_to_the_width_without_counting_colours() {
        let line = Line::default().strong("abc").add(Style::Bad, "defgh");
        assert_eq!(screen(false).line(&line, 5), "abcde");
        assert_eq!(
            screen(true).line(&line, 5),
            "\x1b[1mabc\x1b[0m\x1b[31mde\x1b[0m"
        );
        assert_eq!(screen(true).line(&line, 3), "\x1b[1mabc\x1b[0m");
    }

    #[test]
    fn no_tail_of_spaces() {
        let line = Line::default().plain("a ").plain("  ").plain("");
        assert_eq!(screen(false).line(&line, 80), "a");
    }

    #[test]
    fn without_a_terminal_nothing_but_text() {
        let plain = Screen {
            terminal: false,
            colour: false,
            drawn: false,
        };
        let text = plain.render(&[Line::default().strong("x")], true);
        assert_eq!(text, "x\n\n");
    }
}
