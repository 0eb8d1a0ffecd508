"""Train a network whose backward pass is derived by hand: `python train.py --help`."""

try:
    from manual_bp.training.command import main
    from manual_bp.training.run import Result
    from manual_bp.training.world import leave
except KeyboardInterrupt:  # Ctrl-C while torch is imported, which takes seconds
    raise SystemExit(130) from None

__all__ = ["Result", "main"]

if __name__ == "__main__":
    main()
    leave()
