"""Alembic's entry: runs the migrations on the connection the ledger hands over, inside its transaction."""

from alembic import context

from longrein.core.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
