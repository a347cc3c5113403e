"""The look of all pages: templates, style sheets and ES modules, without a build step."""
