"""Credits that come in from an Ethereum chain and go out to it. Off unless it is configured."""
