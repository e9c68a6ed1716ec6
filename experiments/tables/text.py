"""A table of our numbers beside the paper's, as text."""

from collections.abc import Mapping
from typing import Any

from cnnjax import tables


def shown(value: float, measure: str) -> str:
    """A number of ours, as the paper would print it."""
    if measure != 'seconds':
        return f'{value:.2f}'
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}h {minutes}m' if hours else f'{minutes}m {seconds}s' if minutes else (
        f'{value:.1f}s')


def ours(cell: Mapping[str, Any]) -> str:
    """Our number in a cell: '5.30 ± 0.11 (+0.08)', or why there is none."""
    if cell['ours'] is None:
        return cell['state']
    said = shown(cell['ours'], cell['measure'])
    if cell['deviation'] is not None:
        said += f' ± {shown(cell["deviation"], cell["measure"])}'
    more = [f'{cell["difference"]:+.2f}'] if cell['difference'] is not None else []
    more += [cell[field] for field in ('length', 'seeds') if cell[field]]
    return said + (f' ({", ".join(more)})' if more else '')


def markdown(found: Mapping[str, Any]) -> str:
    """The table for people to read."""
    header, lines = ['', *found['columns']], []
    if found['own']:
        header += ['parameters', 'seconds']
    for row in found['rows']:
        lines.append([row['label']])
        for cell in row['cells'].values():
            numbers = [ours(cell)] if found['own'] else [cell['paper'], ours(cell)]
            lines[-1].append(' / '.join(filter(None, numbers)))
        if found['own']:
            lines[-1] += [f'{row["parameters"]:,}' if row['parameters'] else '',
                          f'{row["seconds"]:.1f}' if row['seconds'] else '']
    said = [f'# {found["title"]}', tables.markdown(header, lines, left=1)]
    said += ([] if found['own'] else [
        'The paper\'s number / ours (the difference). - stands for a number that the paper does '
        f'not have. Source: {found["source"]}.'])
    said += [found['remark']] if found['remark'] else []
    said += [f'{row["label"]}: {row["remark"]}.' for row in found['rows'] if row['remark']]
    trained = [cell for row in found['rows'] for cell in row['cells'].values()
               if cell['ours'] is not None]
    if any(cell['length'] for cell in trained):
        said.append('Where a length is given, the training was shorter than the recipe' + (
            '.' if found['own'] else ', and its error is not to be compared with the paper\'s.'))
    return '\n\n'.join(part.rstrip('\n') for part in said) + '\n'
