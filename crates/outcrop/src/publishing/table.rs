//! Plain tables for people: columns aligned, no frames, no colours, the same in a pipe as on a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A header line and one line for each row, without a line's end at the last. Rows have as many cells as the header; long cells are never
/// wrapped or cut, so that scripts can read them.
pub fn render(header: &[(&str, Align)], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|(name, _)| *name));
    for row in rows {
        // A line's end within a cell would break the row.
        table.add_row(row.into_iter().map(|cell| cell.replace(['\n', '\r'], " ")));
    }
    for (column, (_, align)) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    table.trim_fmt()
}

/// Bytes as people read them: `1.5 GiB`.
pub fn bytes(number: u64) -> String {
    bytesize::ByteSize(number).to_string()
}

/// The beginning of a digest, enough to tell it from others: `sha256:0123456789ab`.
pub fn short(digest: &image::Digest) -> String {
    let hex = digest.hex();
    format!("sha256:{}", &hex[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_wrapped() {
        let long = "x".repeat(150);
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned(), long.clone()],
            vec!["lang\nsam".to_owned(), "1000".to_owned(), String::new()],
        ];
        let header = [
            ("NAME", Align::Left),
            ("BYTES", Align::Right),
            ("REST", Align::Left),
        ];
        assert_eq!(
            render(&header, rows),
            format!("NAME      BYTES  REST\na             1  {long}\nlang sam   1000")
        );
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(
            render(&[("A", Align::Left), ("B", Align::Left)], vec![]),
            "A  B"
        );
    }

    #[test]
    fn sizes_are_of_powers_of_two() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
