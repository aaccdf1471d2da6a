"""What a user may choose when KuaiRand-Pure is turned into a request table."""

from dataclasses import dataclass

from recsys.errors import UserError

# A task's name here -> its column in the official log. Comment, follow and forward have too few
# positives to learn or to judge; `is_hate` too.
TASKS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "profile_enter": "is_profile_enter",
}

# The data set publishes tabs as numbers and does not say what each one is, so the surfaces keep
# the number: tab 1 becomes surface `tab1`.
SURFACE_TABS = (0, 1, 2, 4, 6)


def surface_of(tab: int) -> str:
    """The surface's name of a tab number of the log."""
    return f"tab{tab}"


@dataclass(frozen=True)
class KuaiRandOptions:
    """Options of the KuaiRand recipe. Dates are the log's `date` column, as YYYYMMDD.

    Attributes:
        train_first, valid_first, test_first, test_last: first day of each split and the last day
            of the test split; each split ends the day before the next one begins. Rows before
            `train_first` make no request and still feed histories and rates.
        request_gap_seconds: impressions of one user on one tab belong to the same request while
            each is at most this long after the one before. All inputs of a request are taken
            before its first impression, so a longer gap means older inputs for the others.
        history_length: the most recent events that are kept for a request.
        keep_other_tabs: also make requests of the tabs that are not one of the five surfaces.
        requests_per_file, requests_per_row_group: the layout of the Parquet files.
    """

    train_first: int = 20220425
    valid_first: int = 20220504
    test_first: int = 20220506
    test_last: int = 20220508
    request_gap_seconds: float = 10.0
    history_length: int = 50
    keep_other_tabs: bool = False
    requests_per_file: int = 65_536
    requests_per_row_group: int = 4_096

    @property
    def splits(self) -> dict[str, tuple[int, int]]:
        """The first date of each split, and the one before which it ends."""
        return {
            "train": (self.train_first, self.valid_first),
            "valid": (self.valid_first, self.test_first),
            "test": (self.test_first, self.test_last + 1),
        }

    def __post_init__(self) -> None:
        dates = (self.train_first, self.valid_first, self.test_first, self.test_last + 1)
        if list(dates) != sorted(set(dates)):
            raise UserError(
                f"split dates {dates[0]}, {dates[1]}, {dates[2]}, {self.test_last} are not in "
                "order: give --train-first < --valid-first < --test-first <= --test-last"
            )
        if self.history_length < 1:
            raise UserError(f"--history-length is {self.history_length}: give 1 or more")
        for name in ("requests_per_file", "requests_per_row_group"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not self.request_gap_seconds >= 0:
            raise UserError(f"--request-gap is {self.request_gap_seconds}: give 0 or more seconds")
