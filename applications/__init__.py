"""Programs built on ndgrad's public interface."""
