//! One bar a layer on a terminal; nothing anywhere else.

use crate::publishing::table::short;
use image::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use publisher::publish::{LayerPhase, LayerState, Progress};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks of a bar that nobody feeds.
const TICK: Duration = Duration::from_millis(200);
const HEADER: &str = "{msg} [{elapsed}]";
const RUNNING: &str = "  {prefix} {bar:24} {bytes:>10}/{total_bytes:10} {msg}";
const ENDED: &str = "  {prefix} {msg} {total_bytes}";

/// The bars of one image, on stderr. They go when this is dropped.
pub struct LayerBars {
    bars: MultiProgress,
    header: ProgressBar,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl LayerBars {
    /// Begins with the image's name.
    pub fn begin(image: &str) -> Self {
        Self::on(image, ProgressDrawTarget::stderr())
    }

    fn on(image: &str, target: ProgressDrawTarget) -> Self {
        let bars = MultiProgress::with_draw_target(target);
        let header = bars.add(ProgressBar::new_spinner());
        header.set_style(style(HEADER));
        header.set_message(image.to_owned());
        if !bars.is_hidden() {
            header.enable_steady_tick(TICK);
        }
        Self {
            bars,
            header,
            layers: Mutex::default(),
        }
    }

    fn layers(&self) -> MutexGuard<'_, HashMap<Digest, ProgressBar>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for LayerBars {
    fn phase(&self, layer: &Digest, size: u64, phase: LayerPhase) {
        if self.bars.is_hidden() {
            return;
        }
        let mut layers = self.layers();
        let bar = layers.entry(*layer).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(size));
            bar.set_style(style(RUNNING));
            bar.set_prefix(short(layer));
            bar
        });
        match phase {
            LayerPhase::Storing => bar.set_message("storing"),
            LayerPhase::Finishing => {
                bar.set_position(size);
                bar.set_message("finishing");
            }
            LayerPhase::Done(state) => {
                bar.set_style(style(ENDED));
                bar.finish_with_message(word(state));
            }
        }
    }

    fn bytes(&self, layer: &Digest, read: u64) {
        if let Some(bar) = self.layers().get(layer) {
            bar.set_position(read);
        }
    }
}

fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Published => "done",
        LayerState::Present => "present",
        LayerState::Missing => "missing",
        LayerState::Skipped => "skipped",
    }
}

impl Drop for LayerBars {
    fn drop(&mut self) {
        self.header.finish_and_clear();
        // A terminal that is gone needs no clearing.
        let _ = self.bars.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// A terminal of which only the bars' state matters.
    #[derive(Debug)]
    struct Terminal;

    impl indicatif::TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, _: &str) -> io::Result<()> {
            Ok(())
        }

        fn write_str(&self, _: &str) -> io::Result<()> {
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_layer_has_a_bar_with_its_phase() {
        let target = ProgressDrawTarget::term_like(Box::new(Terminal));
        let bars = LayerBars::on("registry.example.org/a:1", target);
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let shown = |layer| {
            let bar = bars.layers()[layer].clone();
            (bar.message(), bar.position())
        };
        bars.phase(&one, 1000, LayerPhase::Storing);
        bars.bytes(&one, 500);
        bars.phase(&other, 2048, LayerPhase::Done(LayerState::Present));
        assert_eq!(shown(&one), ("storing".to_owned(), 500));
        assert_eq!(shown(&other), ("present".to_owned(), 2048));
        bars.phase(&one, 1000, LayerPhase::Finishing);
        assert_eq!(shown(&one), ("finishing".to_owned(), 1000));
        bars.phase(&one, 1000, LayerPhase::Done(LayerState::Published));
        assert_eq!(shown(&one), ("done".to_owned(), 1000));
    }

    #[test]
    fn in_a_pipe_there_is_nothing() {
        let bars = LayerBars::on("a", ProgressDrawTarget::hidden());
        bars.phase(&Digest::of(b"one"), 1000, LayerPhase::Storing);
        assert!(bars.layers().is_empty());
    }
}
