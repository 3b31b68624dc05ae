/* Empty: BCC includes it, nothing here needs it. */
