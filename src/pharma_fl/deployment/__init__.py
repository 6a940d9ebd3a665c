"""Start-up kits: keys, certificates, cards, and the exact commands of the coordinator and of each partner. Offline."""
