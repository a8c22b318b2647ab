"""Where images come from: files, columns of tables, arrays in memory; read whole or in windows."""
