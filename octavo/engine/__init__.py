"""Tokens to tokens: pages and prefix tree, scheduler, rules, sampler, backends, and the `Engine` that steps them."""
