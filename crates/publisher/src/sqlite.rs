//! Small databases (history, reflog) and catalogs being read, held in memory: nothing is left behind, nothing on disk can change them.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _};

/// Opens a database's bytes. Nothing in its schema is trusted.
pub(crate) fn open(bytes: &[u8], read_only: bool) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    connection.deserialize_read_exact("main", bytes, bytes.len(), read_only)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// A new database with these tables.
pub(crate) fn create(schema: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(schema)?;
    Ok(connection)
}

/// The bytes of the file that the database would be.
pub(crate) fn bytes(mut connection: Connection) -> rusqlite::Result<Vec<u8>> {
    Ok(connection.serialize("main")?.to_vec())
}

/// Names of a table's columns; none if there is no such table.
pub(crate) fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// A property's text.
pub(crate) fn property(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT CAST(value AS TEXT) FROM properties WHERE key = ?1";
    let text: Option<Option<String>> = connection
        .query_row(sql, [key], |row| row.get(0))
        .optional()?;
    Ok(text.flatten())
}

/// Sets a property.
pub(crate) fn set_property(
    connection: &Connection,
    key: &str,
    value: &str,
) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT OR REPLACE INTO properties (key, value) VALUES (?1, ?2)",
            [key, value],
        )
        .map(drop)
}
