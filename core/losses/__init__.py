"""What training minimises: one term a file, and for each family of detectors a named dict."""
