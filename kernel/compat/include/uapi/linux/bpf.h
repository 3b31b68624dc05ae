/* Empty: BCC brings its own copy and includes it first. */
