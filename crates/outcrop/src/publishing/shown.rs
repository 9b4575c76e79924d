//! What goes on during long work, on one line of a terminal; nothing anywhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Between two looks of a bar that nobody feeds.
const TICK: Duration = Duration::from_millis(200);

/// A line on stderr that goes when this is dropped. In a pipe it is nothing at all.
#[derive(Debug)]
pub struct Shown(ProgressBar);

impl Shown {
    /// Begins with a first text.
    pub fn begin(what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(Self::style(None));
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Where the work is now.
    pub fn step(&self, step: publisher::Step) {
        if self.0.is_hidden() {
            return;
        }
        if self.0.length() != step.total || self.0.message() != step.what {
            match step.total {
                Some(total) => self.0.set_length(total),
                None => self.0.unset_length(),
            }
            self.0.set_style(Self::style(step.total));
            self.0.set_message(step.what);
        }
        self.0.set_position(step.done);
    }

    fn style(total: Option<u64>) -> ProgressStyle {
        let template = match total {
            Some(_) => "{msg} {human_pos}/{human_len} [{elapsed}]",
            None => "{msg} {human_pos} [{elapsed}]",
        };
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
