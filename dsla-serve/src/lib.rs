//! DSLA-Serve: an embeddable engine that converts attention layers while it serves.
