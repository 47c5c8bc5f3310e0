"""Who may have what done, and when: keys, limits, a fair queue, the ledger, files and batches."""
