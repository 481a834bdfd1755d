"""The record of everything that was measured: an Optuna study. Nothing else here knows Optuna.

A visit is a trial. It is running before it is measured, so that what runs at a crash is seen to
have run; what it was for and what came of it stand in its user attributes. Its value is the seconds
of one request. What failed, or was dropped because it had lost, is told as pruned: a trial that is
told as failed is invisible to TPE, which then walks into the same region again and again.

Optuna's own `ask` and `tell` look at all trials each time, and keep all of them whole in memory. So
trials are written by Optuna's storage itself, and of those that are over no more is held than TPE
asks for.

A study is one machine's own, in a file; or it is shared, in a database, and each machine that works
on it sees what the others have begun and finished.

trials      what stands in a trial, and what it says when it is read again
writing     how a trial is written
proposals   what TPE would try next

record      a study of one's own: it goes on after a crash
database    its file: opened with care, and its errors in our words
rows        the trials of a file, read in one go

shared      a study of many: who measures what, and what came of it
founding    how it begins
workers     what each of the many says of itself while it lives
standing    how far all of them are
server      its database: waited for while it is away, and its errors in our words
address     where that is, with the password apart
"""

from autotune.tuning.study.database import NAME
from autotune.tuning.study.record import Journalled, Study, Ticket
from autotune.tuning.study.shared import SharedStudy

__all__ = ["NAME", "Journalled", "SharedStudy", "Study", "Ticket"]
