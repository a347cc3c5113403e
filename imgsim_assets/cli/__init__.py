"""The command line `imgsim`; commands are imported when they are used."""
