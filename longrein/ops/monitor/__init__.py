"""What goes on in production: series, objectives and alerts, and the ways out to other systems."""
