//! SQLite on a verified file that may still be hostile: nothing in its schema is trusted, nothing is ever written.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

/// Idle connections kept for one database.
const IDLE_CONNECTIONS: usize = 2;
/// Page cache of one connection, KiB.
const PAGE_CACHE_KIB: i64 = 128;

/// No row of a catalog comes near: names, targets and attributes together stay below 200 KiB.
const MAX_ROW_BYTES: i32 = 1 << 20;
/// Our own statements are shorter; those in a schema may be as long.
const MAX_STATEMENT_BYTES: i32 = 64 << 10;

/// Opens a file that does not change.
pub(crate) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let uri = format!("file:{}?immutable=1", encode(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(connection)
}

fn encode(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    crate::download::encode_path(path.as_os_str().as_bytes())
}

/// Names of a table's columns; none if there is no such table.
pub(crate) fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// A property's text.
pub(crate) fn property(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    use rusqlite::OptionalExtension;
    let sql = "SELECT CAST(value AS TEXT) FROM properties WHERE key = ?1";
    let text: Option<Option<String>> = connection
        .query_row(sql, [key], |row| row.get(0))
        .optional()?;
    Ok(text.flatten())
}

/// Connections to one database, handed out one per user.
pub(crate) struct Pool {
    path: std::path::PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// A connection on loan.
pub(crate) struct Loan<'a> {
    connection: Option<Connection>,
    pool: &'a Pool,
}

impl Pool {
    pub(crate) fn new(path: std::path::PathBuf, first: Connection) -> Self {
        Self {
            path,
            idle: Mutex::new(vec![first]),
        }
    }

    pub(crate) fn get(&self) -> rusqlite::Result<Loan<'_>> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open(&self.path)?,
        };
        Ok(Loan {
            connection: Some(connection),
            pool: self,
        })
    }
}

impl Deref for Loan<'_> {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "only drop takes the connection")]
    fn deref(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("a loan holds its connection until dropped")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut idle = self
            .pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS {
            idle.extend(self.connection.take());
        }
    }
}
