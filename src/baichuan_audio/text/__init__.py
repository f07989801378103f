"""Text on its way in and out: files of lines, languages, what people type, what is read aloud."""
